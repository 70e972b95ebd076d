"""systemd: a unit of the machine, or of a user.

Checked by `systemd-analyze verify`; the commands are tested with recorded answers. A user's unit
was run under systemd 252, the machine's was not. [front]
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_worker.errors import ServiceManagerError
from mlx_worker.service.definition import (
    OPEN_FILES,
    ServiceState,
    label,
    program,
    remove,
    write,
)
from mlx_worker.service.subprocess_runner import run_or_raise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.service.definition import Definition
    from mlx_worker.service.subprocess_runner import Run

NETWORK = """\
After=network-online.target
Wants=network-online.target
"""

HARDENING = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
SystemCallArchitectures=native
UMask=0077
"""
"""What needs neither root nor a namespace, so that it holds for a user's unit too."""

HARDENING_OF_THE_MACHINES = """\
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
CapabilityBoundingSet=
# Off, because MLX needs it: MemoryDenyWriteExecute (kernels are compiled while it runs, then
# loaded), PrivateDevices, ProtectClock and DevicePolicy (they hide GPUs), ProcSubset (the
# machine's memory is read from /proc/meminfo).
"""

NOT_REACHABLE = (
    "Failed to connect to",
    "not been booted with systemd",
    "there is no such command",
)
"""Parts of the output of a command that found no systemd to ask."""

OF_A_USER = (
    "no systemd of this user can be reached from this shell: log in as this user itself, without "
    "su or sudo; or run `mlx-worker serve`; or install the machine's service"
)
OF_THE_MACHINE = "systemd does not run on this machine: run `mlx-worker serve`"


@dataclass(frozen=True)
class Systemd:
    """The service as systemd keeps it; `name` distinguishes the unit of a second node."""

    run: Run
    daemon: bool = False
    name: str = ""

    @property
    def file(self) -> Path:
        """Return the path of the unit among an administrator's, or a user's, units."""
        if self.daemon:
            return Path("/etc/systemd/system") / self._unit
        config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(config) / "systemd" / "user" / self._unit

    @property
    def _unit(self) -> str:
        return f"{label(self.name)}.service"

    @property
    def _systemctl(self) -> tuple[str, ...]:
        return ("systemctl",) if self.daemon else ("systemctl", "--user")

    def text(self, definition: Definition) -> str:
        """Return the unit file."""
        target = "multi-user.target" if self.daemon else "default.target"
        return f"""\
[Unit]
Description=mlx_worker, a serving node for MLX language models
{NETWORK if self.daemon else ""}StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={_command(definition.command)}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={_path(definition.folder)}
{self._account(definition)}{_environment(definition)}\
WatchdogSec=30
# Whatever the exit code: a disk may be mounted later, a port be free, a key file appear.
Restart=always
RestartSec=2
# Above drain_timeout and the children's end.
TimeoutStopSec={definition.stop_timeout}
# The front ends its children itself; SIGKILL, when it comes, is for all.
KillMode=mixed
# A model that the kernel kills for its memory comes back by itself.
OOMPolicy=continue
LimitNOFILE={OPEN_FILES}
{HARDENING}{HARDENING_OF_THE_MACHINES if self.daemon else ""}
[Install]
WantedBy={target}
"""

    def account(self) -> str | None:
        """Return the account that the installed unit names; None if it names none."""
        try:
            text = self.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        found = re.search(r"^User=(.+)$", text, re.MULTILINE)
        return found[1] if found else None

    def install(self, definition: Definition) -> None:
        """Write the unit file, enable the unit, and (re)start it.

        Leaves no new file behind if systemd cannot be reached.
        """
        is_new = not self.file.exists()
        write(self.file, self.text(definition))
        try:
            self._ctl("daemon-reload")
        except ServiceManagerError:
            if is_new:
                remove(self.file)
            raise
        self._ctl("enable", self._unit)
        self._ctl("restart", self._unit)

    def uninstall(self) -> None:
        """Disable and stop the unit, and take its file away."""
        self._ctl("disable", "--now", self._unit)
        remove(self.file)
        self._ctl("daemon-reload")

    def start(self) -> None:
        """Start the unit; returns once the node listens."""
        self._ctl("start", self._unit)

    def stop(self) -> None:
        """Ask the unit to stop; the drain is not waited for."""
        self._ctl("stop", "--no-block", self._unit)

    def state(self) -> ServiceState:
        """Return the state that `systemctl show` reports."""
        ran = self.run(
            [*self._systemctl, "show", self._unit, "--property", "ActiveState,SubState,MainPID"]
        )
        facts = dict(line.partition("=")[::2] for line in ran.output.splitlines() if "=" in line)
        active = facts.get("ActiveState")
        if ran.status != 0 or active is None:
            return ServiceState(
                self.file.exists(), running=False, pid=None, said=self._explained(ran.output)
            )
        return ServiceState(
            self.file.exists(),
            running=active in ("active", "reloading"),
            pid=int(facts.get("MainPID", "0")) or None,
            said=f"{active} ({facts.get('SubState', '')})",
        )

    def _account(self, definition: Definition) -> str:
        if not self.daemon:
            return ""
        own = label(self.name)
        # All else is read-only: for log.file, for kernels that children compile, for KV on disk.
        # The node's own folder in XDG_CACHE_HOME is mlx-worker, and that of another unit is not.
        cache = f"%C/{own}" if self.name else "%C"
        logs = f"LogsDirectory={own}\nCacheDirectory={own}\nEnvironment=XDG_CACHE_HOME={cache}\n"
        if definition.user is not None:
            return f"User={definition.user}\n{logs}"
        home = f"Environment=HOME=%S/{own}"
        return f"DynamicUser=yes\nStateDirectory={own}\n{home}\n{logs}"

    def _ctl(self, *words: str) -> None:
        try:
            run_or_raise(self.run, *self._systemctl, *words)
        except ServiceManagerError as error:
            raise ServiceManagerError(self._explained(str(error))) from error

    def _explained(self, output: str) -> str:
        """Return the output, with what to do if the command did not reach systemd."""
        if not any(part in output for part in NOT_REACHABLE):
            return output
        if self.daemon:
            return f"{output}; {OF_THE_MACHINE}"
        return f"{output}; {OF_A_USER} (`sudo {program()} service install --daemon`)"


def _environment(definition: Definition) -> str:
    return "".join(
        f"Environment={_quoted(f'{name}={value}')}\n"
        for name, value in definition.environment.items()
    )


def _command(words: Iterable[str]) -> str:
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def _path(path: Path) -> str:
    return str(path).replace("%", "%%")


def _quoted(word: str) -> str:
    """Return a word in systemd's quoting; systemd's specifiers begin with %."""
    word = word.replace("%", "%%")
    if re.fullmatch(r"[\w@%+=:,./-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
