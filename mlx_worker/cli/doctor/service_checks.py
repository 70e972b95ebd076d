"""Findings about the node as a service: what its system does to it.

[front]
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Final

from mlx_worker.cli.doctor.finding import Finding, ok, warn
from mlx_worker.config.addresses import is_loopback
from mlx_worker.errors import WorkerError
from mlx_worker.models.resolve import plan
from mlx_worker.service.definition import NAME, describe, paths_of_service
from mlx_worker.service.detect import service_manager
from mlx_worker.system.privacy import ADVICE, guarded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlx_worker.config.schema import Config
    from mlx_worker.service.subprocess_runner import Run

FIREWALL: Final = "/usr/libexec/ApplicationFirewall/socketfilterfw"


def service_files(run: Run, config: Config, platform: str = sys.platform) -> Iterator[Finding]:
    """Compare each installed service with what `service install` would write now."""
    for daemon in (False, True):
        here = service_manager(run, daemon=daemon, platform=platform)
        try:
            installed = here.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if installed == here.text(describe(config, here.account())):
            yield ok("service file", f"{here.file} is up to date")
        else:
            said = f"{here.file} is not what `service install` would write for this configuration"
            verb = "mlx-worker service install" + (" --daemon" if daemon else "")
            yield warn("service file", said, f"compare with `{verb} --print`, then `{verb}`")


def of_macos(run: Run, config: Config, platform: str = sys.platform) -> Iterator[Finding]:
    """Check the settings of macOS that stop an unattended node; elsewhere check nothing."""
    if platform != "darwin":
        return
    yield _sleep(run, config)
    yield _file_vault(run)
    yield _firewall(run, config)
    yield from _background_items(run)
    yield from _guarded_folders(config, platform)


def _sleep(run: Run, config: Config) -> Finding:
    minutes = _minutes_to_sleep(run(["pmset", "-g", "custom"]).output)
    prevented = config.supervisor.prevent_sleep
    if minutes and prevented == "always":
        return ok("sleep", "never while the node runs: supervisor.prevent_sleep")
    if minutes:
        without = " without work" if prevented == "while_working" else ""
        return warn(
            "sleep",
            f"the machine sleeps after {minutes} minutes{without}, and then answers no request",
            '`sudo pmset -c sleep 0`, or supervisor.prevent_sleep = "always"; a laptop also sleeps'
            " when its lid is closed",
        )
    return ok("sleep", "never on mains" if minutes == 0 else "pmset reports nothing")


def _minutes_to_sleep(settings: str) -> int | None:
    """Return the minutes that pmset reports for mains power, else for any power; None for none."""
    on_mains = settings.rpartition("AC Power:")[2]
    found = re.search(r"^\s*sleep\s+(\d+)", on_mains, re.MULTILINE)
    return int(found[1]) if found else None


def _file_vault(run: Run) -> Finding:
    said = run(["fdesetup", "status"]).output
    if "FileVault is On" in said:
        return warn(
            "FileVault",
            "on: after a restart nothing runs, not even a daemon, until a person unlocks the disk",
            "for a planned restart: `sudo fdesetup authrestart`",
        )
    return ok("FileVault", said or "no answer")


def _firewall(run: Run, config: Config) -> Finding:
    said = run([FIREWALL, "--getglobalstate"]).output
    if "enabled" in said and not is_loopback(config.server.host):
        python = os.path.realpath(sys.executable)
        return warn(
            "firewall",
            "on: connections from other machines are refused until this Python is allowed",
            f"`sudo {FIREWALL} --add {python} --unblockapp {python}`",
        )
    return ok("firewall", said or "no answer")


def _background_items(run: Run) -> Iterator[Finding]:
    for domain in (f"gui/{os.getuid()}", f"user/{os.getuid()}", "system"):
        said = run(["launchctl", "print-disabled", domain]).output
        for found in re.finditer(rf'"({NAME}[\w-]*)" => (?:disabled|true)', said):
            yield warn(
                "background item",
                f"{domain}/{found[1]} is switched off and does not start at login or boot",
                "System Settings, General, Login Items & Extensions, Allow in the Background;"
                f" then `launchctl enable {domain}/{found[1]}`",
            )


def _guarded_folders(config: Config, platform: str) -> Iterator[Finding]:
    for path in guarded(paths_of_service(config, _model_folders(config)), platform=platform):
        yield warn("privacy", f"macOS does not let a service read {path}", ADVICE)


def _model_folders(config: Config) -> list[Path]:
    try:
        return [model.inspected.path for model in plan(config)]
    except WorkerError:
        return []  # `models` reports this
