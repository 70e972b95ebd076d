"""The command `mlx-worker init`.

This module is imported with every command, so a function imports what it alone needs. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlx_worker.cli.options import A_PATH, models_dir, models_folder
from mlx_worker.config.schema import FILE_NAME
from mlx_worker.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@click.command
@click.argument("file", type=A_PATH, default=FILE_NAME)
@models_dir
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def init(*, file: Path, models_dir: Path | None, force: bool) -> None:
    """Write a configuration for this machine.

    FILE is what is written; default: ./mlx-worker.toml. The file has a section for each model in
    the models folder, and the keys that are often changed, with comments that tell their meaning.
    """
    from mlx_worker.cli.model_files.starter_config import refuse_existing, write_starter_config

    refuse_existing(file, force=force)
    written = write_starter_config(file, _models_folder(models_dir, force=force), force=force)
    click.echo(f"{file} is written, with {_listed(written.ids)} from {written.models_dir}")
    for name, problem in written.skipped:
        click.echo(f"left out {name}: {problem}", err=True)
    click.echo(f"`mlx-worker serve --config {file}` starts the node")


def _models_folder(named: Path | None, *, force: bool) -> Path:
    """Return the models folder; a configuration that may be replaced may also be wrong."""
    from mlx_worker.models.resolve import models_dir_of

    try:
        return models_folder(named, None)
    except ConfigError:
        if not force:
            raise
        return models_dir_of(None)


def _listed(ids: tuple[str, ...]) -> str:
    return f"{len(ids)} model{'s' if len(ids) > 1 else ''} ({', '.join(ids)})"
