"""launchd: an agent of the user who is logged in, or a daemon of the machine.

Written from launchd.plist(5) and launchctl(1), tested with their recorded answers, and not run on
a Mac. [front]
"""

from __future__ import annotations

import os
import plistlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_worker.service.definition import NAME, OPEN_FILES, State, remove, write
from mlx_worker.service.run import run_or_raise

if TYPE_CHECKING:
    from mlx_worker.service.definition import Definition
    from mlx_worker.service.run import Run

THROTTLE = 10
"""Seconds between two starts: a configuration that cannot be is not to be spun on."""


@dataclass(frozen=True)
class Launchd:
    """The service as launchd keeps it."""

    run: Run
    daemon: bool = False

    @property
    def file(self) -> Path:
        """Where launchd looks at login, or at the machine's start."""
        library = Path("/Library/LaunchDaemons") if self.daemon else _home("LaunchAgents")
        return library / f"{NAME}.plist"

    @property
    def log(self) -> Path:
        """Where what the node says goes."""
        return (Path("/Library/Logs") if self.daemon else _home("Logs")) / f"{NAME}.log"

    @property
    def _domain(self) -> str:
        return "system" if self.daemon else f"gui/{os.getuid()}"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{NAME}"

    def text(self, definition: Definition) -> str:
        """The property list."""
        return plistlib.dumps(self._plist(definition), sort_keys=False).decode()

    def install(self, definition: Definition) -> None:
        """Write the file and bootstrap it; an older service of this name is ended first."""
        write(self.file, self.text(definition))
        self.run(["launchctl", "bootout", self._target])
        self.start()

    def uninstall(self) -> None:
        """End the service and take its file away."""
        self.run(["launchctl", "bootout", self._target])
        remove(self.file)

    def start(self) -> None:
        """Have launchd read the file: it starts the node, and starts it again when it ends."""
        run_or_raise(self.run, "launchctl", "enable", self._target)
        run_or_raise(self.run, "launchctl", "bootstrap", self._domain, str(self.file))

    def stop(self) -> None:
        """Boot it out: merely killed, KeepAlive would bring it back."""
        run_or_raise(self.run, "launchctl", "bootout", self._target)

    def state(self) -> State:
        """What `launchctl print` says of it."""
        ran = self.run(["launchctl", "print", self._target])
        installed = self.file.exists()
        if ran.status != 0:
            return State(installed, running=False, pid=None, said="not loaded")
        said = _value("state", ran.said) or "unknown"
        pid = _value("pid", ran.said)
        last = _value("last exit code", ran.said)
        return State(
            installed,
            running=said == "running",
            pid=int(pid) if pid else None,
            said=f"{said}, last exit {last}" if last else said,
        )

    def _plist(self, definition: Definition) -> dict[str, Any]:
        limits = {"NumberOfFiles": OPEN_FILES}
        return {
            "Label": NAME,
            "ProgramArguments": list(definition.command),
            "WorkingDirectory": str(definition.folder),
            "EnvironmentVariables": dict(definition.environment),
            **({"UserName": definition.user} if self.daemon else {}),
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": THROTTLE,
            "ExitTimeOut": definition.stop_timeout,
            # Else macOS slows down what has no window.
            "ProcessType": "Interactive",
            "SoftResourceLimits": limits,
            "HardResourceLimits": limits,
            "StandardOutPath": str(self.log),
            "StandardErrorPath": str(self.log),
            "Umask": 0o077,
        }


def _home(folder: str) -> Path:
    return Path.home() / "Library" / folder


def _value(key: str, printed: str) -> str | None:
    """The first `key = value`: what belongs to the service itself stands before its endpoints."""
    found = re.search(rf"^\s*{re.escape(key)} = (.+)$", printed, re.MULTILINE)
    return found[1].strip() if found else None
