"""The property list fits the configuration; launchctl is answered for, as on a Mac it would be."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.config import load_config
from mlx_worker.errors import CannotServe
from mlx_worker.service.definition import describe
from mlx_worker.service.launchd import Launchd
from mlx_worker.service.run import Ran, run
from mlx_worker.supervisor import settings
from tests.processes import config_text
from tests.service.recorded import Recorded

if TYPE_CHECKING:
    from mlx_worker.config import Config

PRINTED = """\
gui/501/mlx-worker = {
	active count = 1
	path = /Users/me/Library/LaunchAgents/mlx-worker.plist
	type = LaunchAgent
	state = running

	program = /Users/me/.venv/bin/python
	runs = 1
	pid = 4242
	last exit code = 0

	endpoints = {
		"x" = {
			state = waiting
			pid = 1
		}
	}
}
"""
TARGET = f"gui/{os.getuid()}/mlx-worker"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"m": Path("m")}, supervisor="drain_timeout = 99.5"))
    return load_config(file)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def plist_of(config: Config, *, daemon: bool, user: str | None = None) -> dict[str, Any]:
    text = Launchd(Recorded(), daemon).text(describe(config, user))
    read: dict[str, Any] = plistlib.loads(text.encode())
    return read


@pytest.mark.parametrize("daemon", [False, True])
def test_the_plist_fits_the_configuration(config: Config, *, daemon: bool) -> None:
    plist = plist_of(config, daemon=daemon, user="somebody")
    timings = settings.timings(config.supervisor)
    assert plist["ExitTimeOut"] > timings.drain + timings.stop + timings.kill > 99
    assert plist["ProgramArguments"][0] == sys.executable
    assert plist["ProgramArguments"][-2:] == ["--config", str(config.file)]
    paths = [plist[key] for key in ("WorkingDirectory", "StandardOutPath", "StandardErrorPath")]
    paths += [plist["EnvironmentVariables"]["MLX_WORKER_MODELS"], plist["ProgramArguments"][0]]
    assert all(Path(path).is_absolute() for path in paths)
    assert plist["KeepAlive"] is plist["RunAtLoad"] is True
    assert plist["ThrottleInterval"] == 10
    assert plist["ProcessType"] == "Interactive"
    assert plist["SoftResourceLimits"] == plist["HardResourceLimits"] == {"NumberOfFiles": 65536}
    assert plist.get("UserName") == ("somebody" if daemon else None)


@pytest.mark.skipif(shutil.which("plutil") is None, reason="plutil is on a Mac only")
def test_plutil_finds_nothing_wrong(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "it.plist"
    file.write_text(Launchd(run).text(describe(config, None)))
    subprocess.run(["plutil", "-lint", str(file)], check=True, timeout=60)


def test_install_writes_the_file_and_replaces_what_was_there(config: Config, home: Path) -> None:
    launchctl = Recorded()
    agent = Launchd(launchctl)
    agent.install(describe(config, None))
    file = home / "Library/LaunchAgents/mlx-worker.plist"
    assert plistlib.loads(file.read_bytes())["Label"] == "mlx-worker"
    assert launchctl.asked == [
        ["launchctl", "bootout", TARGET],
        ["launchctl", "enable", TARGET],
        ["launchctl", "bootstrap", f"gui/{os.getuid()}", str(file)],
    ]


def test_stop_boots_it_out_and_uninstall_takes_the_file_away(config: Config, home: Path) -> None:
    launchctl = Recorded()
    agent = Launchd(launchctl)
    agent.install(describe(config, None))
    launchctl.asked.clear()
    agent.stop()
    agent.uninstall()
    assert launchctl.asked == [["launchctl", "bootout", TARGET]] * 2
    assert not agent.file.exists()


def test_what_launchctl_refuses_is_told(home: Path) -> None:
    launchctl = Recorded(bootstrap=Ran(5, "Bootstrap failed: 5: Input/output error"))
    with pytest.raises(CannotServe, match="Bootstrap failed: 5"):
        Launchd(launchctl).start()


def test_its_state_is_what_launchctl_prints_of_the_service_itself(home: Path) -> None:
    agent = Launchd(Recorded(print=Ran(0, PRINTED)))
    state = agent.state()
    assert (state.installed, state.running, state.pid) == (False, True, 4242)
    assert state.said == "running, last exit 0"
    gone = Launchd(Recorded(print=Ran(113, "Could not find service"))).state()
    assert (gone.running, gone.pid, gone.said) == (False, None, "not loaded")


def test_a_daemon_is_the_systems() -> None:
    daemon = Launchd(Recorded(), daemon=True)
    assert str(daemon.file) == "/Library/LaunchDaemons/mlx-worker.plist"
    daemon.state()
    assert isinstance(daemon.run, Recorded)
    assert daemon.run.asked[-1] == ["launchctl", "print", "system/mlx-worker"]
