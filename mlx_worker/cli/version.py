"""The option `--version`: what is installed, by the packages' metadata, without importing them.

[front]
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import click

from mlx_worker import __version__

BESIDE: Final = ("mlx", "mlx-lm")
"""The packages whose versions decide what a model answers."""


def versions() -> str:
    """Return the versions of mlx-worker, of mlx and mlx-lm, and of Python, in one line."""
    beside = [f"{package} {_installed(package)}" for package in BESIDE]
    return f"mlx-worker {__version__} ({', '.join(beside)}, Python {platform.python_version()})"


def _print_versions(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        click.echo(versions())
        context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Print the versions of mlx-worker, mlx, mlx-lm and Python, and exit.",
)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
