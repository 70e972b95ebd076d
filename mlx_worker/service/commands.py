"""`mlx-worker service …`.

Imported with every command, so what these alone need they import themselves. [front]
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_worker.errors import CannotServe
from mlx_worker.options import ConfigFile, configuration

if TYPE_CHECKING:
    from mlx_worker.service.definition import Keeper

commands = typer.Typer(
    help="Have the system run the node: launchd on macOS, systemd on Linux.", no_args_is_help=True
)

Daemon = Annotated[
    bool,
    typer.Option(
        "--daemon", help="The machine's, not the user's: runs without a login. Needs sudo."
    ),
]

NOT_RUNNING, NOT_INSTALLED = 3, 4
"""Exit codes of `service status`, as `systemctl status` has them."""


@commands.command()
def install(
    *,
    daemon: Daemon = False,
    user: Annotated[
        str | None,
        typer.Option(help="A daemon's account. Default: who called sudo.", show_default=False),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the file, change nothing.")] = False,
    config: ConfigFile = None,
) -> None:
    """Run this configuration with this Python from now on, and start it."""
    from mlx_worker.plan import plan
    from mlx_worker.service.definition import describe

    loaded = configuration(config)
    plan(loaded)
    here = _here(daemon=daemon)
    definition = describe(loaded, _account(user) if daemon else None)
    if show:
        typer.echo(here.text(definition), nl=False)
        return
    here.install(definition)
    typer.echo(f"{here.file} is installed and started; `mlx-worker status` tells how it goes")


@commands.command()
def uninstall(*, daemon: Daemon = False) -> None:
    """Stop the service and take its file away; configuration, models and logs stay."""
    here = _here(daemon=daemon)
    here.uninstall()
    typer.echo(f"{here.file} is gone")


@commands.command()
def start(*, daemon: Daemon = False) -> None:
    """Start the installed service."""
    _here(daemon=daemon).start()


@commands.command()
def stop(*, daemon: Daemon = False) -> None:
    """Stop the service until it is started again: running streams finish within drain_timeout."""
    _here(daemon=daemon).stop()


@commands.command()
def status(*, daemon: Daemon = False) -> None:
    """Say how the system has the service: 0 running, 3 not running, 4 not installed."""
    here = _here(daemon=daemon)
    state = here.state()
    if not state.installed:
        typer.echo(f"not installed: there is no {here.file}")
        raise typer.Exit(NOT_INSTALLED)
    typer.echo(f"{state.said}, pid {state.pid}" if state.pid else state.said)
    raise typer.Exit(0 if state.running else NOT_RUNNING)


def _here(*, daemon: bool) -> Keeper:
    from mlx_worker.service.here import keeper
    from mlx_worker.service.run import run

    return keeper(run, daemon=daemon)


def _account(user: str | None) -> str | None:
    """Who a daemon runs as; None: an account that systemd makes up."""
    account = user or os.environ.get("SUDO_USER")
    if account is None and sys.platform == "darwin":
        raise CannotServe("a daemon needs an account to run as: --user NAME")
    return account
