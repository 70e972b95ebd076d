"""The definition of a service, the same for every service manager.

[front]
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from mlx_worker.errors import ServiceManagerError
from mlx_worker.models.resolve import models_dir_of
from mlx_worker.supervisor import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlx_worker.config.schema import Config, SupervisorConfig

NAME: Final = "mlx-worker"

SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")

OPEN_FILES: Final = 65_536
"""Each connection is a file; macOS allows 256 by default."""

SLACK: Final = 15
"""Seconds in addition to the deadlines of a stop."""


@dataclass(frozen=True)
class Definition:
    """A service: its command, its folder and environment, and how long it may take to stop.

    Paths are absolute, `stop_timeout` is in seconds. `user` is the account of a service of the
    machine; None: an account that the system creates. `logs_to_file` is True if the configuration
    names the log's file, so that the service manager does not have to.
    """

    command: tuple[str, ...]
    folder: Path
    stop_timeout: int
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    logs_to_file: bool = False


@dataclass(frozen=True)
class ServiceState:
    """The state of a service; `said` is the state in the service manager's own words."""

    installed: bool
    running: bool
    pid: int | None
    said: str


class ServiceManager(Protocol):
    """What keeps the node running. Every method that acts raises ServiceManagerError."""

    @property
    def file(self) -> Path:
        """Return the path at which the service manager looks for the service."""

    def text(self, definition: Definition) -> str:
        """Return the service file."""

    def account(self) -> str | None:
        """Return the account that the installed service runs as; None: its file names none."""

    def install(self, definition: Definition) -> None:
        """Install the service for every start of machine or session, and start it."""

    def uninstall(self) -> None:
        """Stop the service and remove it."""

    def start(self) -> None:
        """Start the service."""

    def stop(self) -> None:
        """Stop the service until it, or the machine, is started again."""

    def state(self) -> ServiceState:
        """Return the state of the service."""


def describe(config: Config, user: str | None) -> Definition:
    """Return the service that runs this configuration with this Python.

    Raises ServiceManagerError for a configuration without a file.
    """
    if config.file is None:
        raise ServiceManagerError("a service needs a configuration file")
    models = models_dir_of(config)
    return Definition(
        # -P: a checkout in the working folder must not be served in place of what is installed.
        command=(sys.executable, "-P", "-m", "mlx_worker", "serve", "--config", str(config.file)),
        folder=config.file.parent,
        stop_timeout=stop_timeout(config.supervisor),
        user=user,
        environment={"MLX_WORKER_MODELS": os.path.abspath(models)},  # noqa: PTH100  (no symlinks)
        logs_to_file=config.log.file is not None,
    )


def paths_of_service(config: Config, model_folders: Iterable[Path]) -> list[Path]:
    """Return the files and folders that the service reads or writes."""
    kv = config.cache.path if config.cache.disk else None
    named = [config.file, config.server.models_dir, config.log.file, kv, *model_folders]
    return [path for path in named if path is not None]


def label(name: str) -> str:
    """Return the name that the service manager has for a service. Raises ServiceManagerError."""
    if not name:
        return NAME
    if SERVICE_NAME.fullmatch(name) is None:
        raise ServiceManagerError(f"--name {name!r}: letters, digits, - and _, at most 32 of them")
    return f"{NAME}-{name}"


def program() -> str:
    """Return how a shell calls this program: by its path, which `sudo` finds as well.

    `sudo` has a PATH of its own, without the folders of virtual environments.
    """
    installed = Path(sys.executable).with_name(NAME)
    if installed.exists():
        return shlex.quote(str(installed))
    return shlex.join((sys.executable, "-m", "mlx_worker"))


def stop_timeout(supervisor: SupervisorConfig) -> int:
    """Return the seconds after which a node that should stop is certainly stuck."""
    timings = settings.timings(supervisor)
    return math.ceil(timings.drain + timings.stop + timings.kill) + SLACK


def write(file: Path, text: str) -> None:
    """Write the service file to where the service manager expects it.

    Raises ServiceManagerError.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o644)
    except OSError as error:
        raise ServiceManagerError(
            f"{file} cannot be written: {error.strerror}{_hint(error)}"
        ) from error


def give_folder(folder: Path, user: str | None) -> None:
    """Make a folder that a daemon's account may write to. Raises ServiceManagerError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if user is not None:
            shutil.chown(folder, user)
    except LookupError as error:
        raise ServiceManagerError(f"there is no account {user!r}: --user names another") from error
    except OSError as error:
        raise ServiceManagerError(
            f"{folder} cannot be created: {error.strerror}{_hint(error)}"
        ) from error


def remove(file: Path) -> None:
    """Take the service's file away, where there is one. Raises ServiceManagerError."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise ServiceManagerError(
            f"{file} cannot be removed: {error.strerror}{_hint(error)}"
        ) from error


def _hint(error: OSError) -> str:
    if not isinstance(error, PermissionError):
        return ""
    return f" (a daemon is the machine's: use `sudo {program()} service`)"
