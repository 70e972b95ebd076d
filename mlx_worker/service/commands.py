"""`mlx-worker service …`.

Imported with every command, so what these alone need they import themselves. [front]
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from mlx_worker.cli.options import as_json, config_file, configuration
from mlx_worker.errors import ServiceManagerError

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.service.definition import ServiceManager, ServiceState

of_the_machine = click.option(
    "--daemon",
    is_flag=True,
    help="Service of the machine, not of the user: runs without a login. Needs sudo.",
)

service_name = click.option(
    "--name",
    default="",
    help="Name of a second node on this machine; the service is then mlx-worker-NAME.",
)

NOT_RUNNING, NOT_INSTALLED = 3, 4
"""Exit codes of `service status`, as `systemctl status` has them."""


LOOK_EVERY = 0.2
"""Seconds between two checks of whether the service has stopped."""


@click.group
def service() -> None:
    """Run the node as a service (launchd or systemd)."""


@service.command
@of_the_machine
@service_name
@click.option("--user", help="Account of a daemon. Default: the user that called sudo.")
@click.option("--print", "show", is_flag=True, help="Print the service file and change nothing.")
@config_file
def install(*, daemon: bool, name: str, user: str | None, show: bool, file: Path | None) -> None:
    """Install and start a service of this configuration.

    The service runs with this Python.
    """
    from mlx_worker.models.resolve import plan
    from mlx_worker.service.definition import describe, paths_of_service
    from mlx_worker.system.privacy import ADVICE, guarded

    loaded = configuration(file)
    planned = plan(loaded)
    manager = _manager(daemon=daemon, name=name)
    definition = describe(loaded, _account(user) if daemon else None)
    if show:
        click.echo(manager.text(definition), nl=False)
        return
    folders = [model.inspected.path for model in planned]
    for path in guarded(paths_of_service(loaded, folders)):
        click.echo(f"warning: macOS does not let a service read {path}: {ADVICE}", err=True)
    manager.install(definition)
    click.echo(f"{manager.file} is installed and started; `mlx-worker status` shows the progress")


@service.command
@of_the_machine
@service_name
def uninstall(*, daemon: bool, name: str) -> None:
    """Stop the service, as `stop` does, and remove its file.

    Configuration, models and logs stay.
    """
    manager = _manager(daemon=daemon, name=name)
    if (
        manager.state().pid is not None
    ):  # a service manager's own wait is shorter than a drain may be
        _stop(manager)
    manager.uninstall()
    click.echo(f"{manager.file} is removed")


@service.command
@of_the_machine
@service_name
def start(*, daemon: bool, name: str) -> None:
    """Start the installed service."""
    _manager(daemon=daemon, name=name).start()


@service.command
@of_the_machine
@service_name
def stop(*, daemon: bool, name: str) -> None:
    """Stop the service until it is started again.

    Running streams finish within drain_timeout; the command ends when the node has.
    """
    _stop(_manager(daemon=daemon, name=name))


@service.command
@of_the_machine
@service_name
@as_json
def status(*, daemon: bool, name: str, as_json: bool) -> None:
    """Show the state of the service. Exit codes: 0 running, 3 not running, 4 not installed."""
    manager = _manager(daemon=daemon, name=name)
    state = manager.state()
    if as_json:
        _print_state(manager, state)
    elif not state.installed:
        click.echo(f"not installed: there is no {manager.file}")
    else:
        click.echo(f"{state.said}, pid {state.pid}" if state.pid else state.said)
    if not state.installed:
        sys.exit(NOT_INSTALLED)
    sys.exit(0 if state.running else NOT_RUNNING)


def _print_state(manager: ServiceManager, state: ServiceState) -> None:
    from mlx_worker.cli.reports.output import print_json

    print_json(
        {
            "installed": state.installed,
            "running": state.running,
            "pid": state.pid,
            "state": state.said,
            "file": str(manager.file),
        }
    )


def _stop(manager: ServiceManager) -> None:
    manager.stop()
    while manager.state().pid is not None:  # the system ends a node that does not end by itself
        time.sleep(LOOK_EVERY)


def _manager(*, daemon: bool, name: str) -> ServiceManager:
    from mlx_worker.service.detect import service_manager
    from mlx_worker.service.subprocess_runner import run

    return service_manager(run, daemon=daemon, name=name)


def _account(user: str | None) -> str | None:
    """Return the account that a daemon runs as; None: an account that systemd creates."""
    account = user or os.environ.get("SUDO_USER")
    if account is None and sys.platform == "darwin":
        raise ServiceManagerError("a daemon needs an account to run as: --user NAME")
    return account
