"""launchd: an agent of the user that is logged in, or a daemon of the machine.

launchd answers before its work is done. `bootout` of a node that still drains ends with 36, and a
label is released some time after its process has ended; until then `bootstrap` of the same label
ends with 5. So what is refused for such a reason is asked again, until a deadline. Without a login
at the screen there is no `gui` domain (125): the user's background domain is taken then.

Written from launchd.plist(5) and launchctl(1), tested with their recorded answers, and not run on
a Mac. [front]
"""

from __future__ import annotations

import os
import plistlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import ServiceManagerError
from mlx_worker.service.definition import (
    OPEN_FILES,
    SLACK,
    ServiceState,
    give_folder,
    label,
    program,
    remove,
    write,
)
from mlx_worker.service.log_file import LOG_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.service.definition import Definition
    from mlx_worker.service.subprocess_runner import CommandResult, Run

THROTTLE = 10
"""Seconds between two starts: a configuration that cannot be is not to be spun on."""

LOOK_EVERY = 0.5
"""Seconds between two tries."""

NOT_LOADED: Final = (3, 113)
"""launchctl: no such process, could not find service."""

IN_PROGRESS: Final = 36

LABEL_TAKEN: Final = (5, 37)
"""What `bootstrap` ends with while the label is not released: input/output error, in progress."""

NO_DOMAIN: Final = (112, 125)
"""launchctl: could not find domain, domain does not support specified action."""

USUAL_EXIT_TIMEOUT: Final = 60
"""Seconds, where the installed file does not say how long a stop may take."""


@dataclass(frozen=True)
class Launchd:
    """The service as launchd keeps it; `name` distinguishes the service of a second node."""

    run: Run
    daemon: bool = False
    name: str = ""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def file(self) -> Path:
        """Return the path that launchd reads at login, or at the start of the machine."""
        library = Path("/Library/LaunchDaemons") if self.daemon else _home("LaunchAgents")
        return library / f"{self._label}.plist"

    @property
    def log(self) -> Path:
        """Return the log file that the node rotates, unless the configuration names another."""
        return self._logs / f"{self._label}.log"

    @property
    def _logs(self) -> Path:
        # A daemon's account may not write to /Library/Logs itself.
        return Path("/Library/Logs") / self._label if self.daemon else _home("Logs")

    @property
    def _stderr(self) -> Path:
        """Return the file for stderr of Python and mlx: little, and not rotated."""
        return self._logs / f"{self._label}.stderr.log"

    @property
    def _label(self) -> str:
        return label(self.name)

    @property
    def _domains(self) -> tuple[str, ...]:
        """Return the domains where the service may be, the preferred one first."""
        if self.daemon:
            return ("system",)
        return (f"gui/{os.getuid()}", f"user/{os.getuid()}")

    def text(self, definition: Definition) -> str:
        """Return the property list."""
        return plistlib.dumps(self._plist(definition), sort_keys=False).decode()

    def account(self) -> str | None:
        """Return the account that the installed service runs as; None: the user's own."""
        user = self._installed().get("UserName")
        return str(user) if user else None

    def install(self, definition: Definition) -> None:
        """Write the file and bootstrap the service; first stop an older one of this name."""
        if self.daemon:
            give_folder(self._logs, definition.user)
        write(self.file, self.text(definition))
        self._boot_out()
        self.start()

    def uninstall(self) -> None:
        """End the service and take its file away."""
        if self._boot_out() == IN_PROGRESS:
            self._wait_for_release()
        remove(self.file)

    def start(self) -> None:
        """Make launchd read the file; it starts the node, and restarts it whenever it ends."""
        refused = None
        for domain in self._domains:
            refused = self._start_in(domain)
            if refused is None:
                return
        raise ServiceManagerError(
            f"{refused}. launchd has no session for this user: log in at the screen, or install"
            f" the machine's service (`sudo {program()} service install --daemon`)"
        )

    def stop(self) -> None:
        """Boot the service out without a wait; KeepAlive would restart a killed service."""
        self._boot_out()

    def state(self) -> ServiceState:
        """Return the state that `launchctl print` reports."""
        installed = self.file.exists()
        printed = self._printed()
        if printed is None:
            return ServiceState(installed, running=False, pid=None, said="not loaded")
        said = _value("state", printed) or "unknown"
        pid = _value("pid", printed)
        last = _value("last exit code", printed)
        return ServiceState(
            installed,
            running=said == "running",
            pid=int(pid) if pid else None,
            said=f"{said}, last exit {last}" if last else said,
        )

    # --- launchctl ---

    def _start_in(self, domain: str) -> str | None:
        """Enable and bootstrap the service; return launchctl's message for a missing domain."""
        enable = ("enable", f"{domain}/{self._label}")
        ran = self._ctl(*enable)
        if ran.status in NO_DOMAIN:
            return _failure(enable, ran)
        _check(enable, ran)
        bootstrap = ("bootstrap", domain, str(self.file))
        deadline = self.clock() + self._stop_deadline()
        while (ran := self._ctl(*bootstrap)).status in LABEL_TAKEN and self.clock() < deadline:
            self.sleep(LOOK_EVERY)
        if ran.status in NO_DOMAIN:
            return _failure(bootstrap, ran)
        if not (
            ran.status in LABEL_TAKEN and self.state().running
        ):  # the service was already loaded
            _check(bootstrap, ran)
        return None

    def _boot_out(self) -> int:
        """Stop the service in the domain that has it; return launchctl's status."""
        status = 0
        for domain in self._domains:
            words = ("bootout", f"{domain}/{self._label}")
            ran = self._ctl(*words)
            status = ran.status
            if status in (0, IN_PROGRESS):
                break
            if status not in (*NOT_LOADED, *NO_DOMAIN):
                _check(words, ran)
        return status

    def _wait_for_release(self) -> None:
        """Wait until launchd has released the label. Raises ServiceManagerError at the deadline."""
        seconds = self._stop_deadline()
        deadline = self.clock() + seconds
        while self._printed() is not None:
            if self.clock() >= deadline:
                raise ServiceManagerError(
                    f"launchd still ends {self._label} after {seconds} s: try again"
                )
            self.sleep(LOOK_EVERY)

    def _stop_deadline(self) -> int:
        """Return the seconds after which launchd has certainly killed a node that does not end."""
        asked = self._installed().get("ExitTimeOut")
        return (asked if isinstance(asked, int) else USUAL_EXIT_TIMEOUT) + SLACK

    def _printed(self) -> str | None:
        """Return what launchd prints about the service; None if no domain has the label."""
        for domain in self._domains:
            ran = self._ctl("print", f"{domain}/{self._label}")
            if ran.status == 0 and "state = " in ran.output:
                return ran.output
        return None

    def _ctl(self, *words: str) -> CommandResult:
        return self.run(["launchctl", *words])

    # --- the file ---

    def _installed(self) -> dict[str, Any]:
        try:
            read: dict[str, Any] = plistlib.loads(self.file.read_bytes())
        except (OSError, ValueError):
            return {}
        return read

    def _plist(self, definition: Definition) -> dict[str, Any]:
        limits = {"NumberOfFiles": OPEN_FILES}
        log = {} if definition.logs_to_file else {LOG_VARIABLE: str(self.log)}
        # A user that is not logged in at the screen has a background session only.
        agent = {"LimitLoadToSessionType": ["Aqua", "Background"]}
        return {
            "Label": self._label,
            "ProgramArguments": list(definition.command),
            "WorkingDirectory": str(definition.folder),
            "EnvironmentVariables": {**definition.environment, **log},
            **({"UserName": definition.user} if self.daemon else agent),
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": THROTTLE,
            "ExitTimeOut": definition.stop_timeout,
            # Else macOS slows down what has no window.
            "ProcessType": "Interactive",
            "SoftResourceLimits": limits,
            "HardResourceLimits": limits,
            "StandardOutPath": str(self._stderr),
            "StandardErrorPath": str(self._stderr),
            "Umask": 0o077,
        }


def _check(words: tuple[str, ...], ran: CommandResult) -> None:
    if ran.status != 0:
        raise ServiceManagerError(_failure(words, ran))


def _failure(words: tuple[str, ...], ran: CommandResult) -> str:
    return f"`launchctl {' '.join(words)}` ended with {ran.status}: {ran.output}"


def _home(folder: str) -> Path:
    return Path.home() / "Library" / folder


def _value(key: str, printed: str) -> str | None:
    """Return the first `key = value`; values of the service stand before those of its endpoints."""
    found = re.search(rf"^\s*{re.escape(key)} = (.+)$", printed, re.MULTILINE)
    return found[1].strip() if found else None
