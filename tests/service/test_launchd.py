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
from msgspec.structs import replace

from mlx_worker.config.load import load_config
from mlx_worker.errors import ServiceManagerError
from mlx_worker.service.definition import describe, give_folder
from mlx_worker.service.launchd import Launchd
from mlx_worker.service.log_file import LOG_VARIABLE, with_the_services_file
from mlx_worker.service.subprocess_runner import CommandResult, run
from mlx_worker.supervisor import settings
from tests.processes import config_text
from tests.service.recorded import Recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.config.schema import Config

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
IN_BACKGROUND = f"user/{os.getuid()}/mlx-worker"


class Clock:
    """Time that passes only where a service manager is waited for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class DrainingMac:
    """launchctl as recorded with a node that drains: the label is released only after that.

    `drains` in seconds; `domains` are those that this login has.
    """

    def __init__(
        self, drains: float, domains: tuple[str, ...] = ("gui", "user"), *, loaded: bool = True
    ) -> None:
        self.clock = Clock()
        self.loaded_in: str | None = domains[0] if loaded else None
        self.asked: list[str] = []
        self._drains = drains
        self._domains = domains
        self._gone_at: float | None = None

    def __call__(self, command: Sequence[str]) -> CommandResult:
        verb, target = command[1], command[2]
        self.asked.append(" ".join(command[1:3]))
        domain = target.split("/")[0]
        if self._gone_at is not None and self.clock.seconds >= self._gone_at:
            self.loaded_in = self._gone_at = None
        if domain not in self._domains and verb != "enable":
            return CommandResult(125, "Domain does not support specified action")
        answers = {
            "enable": self._enable,
            "bootout": self._bootout,
            "bootstrap": self._bootstrap,
            "print": self._print,
        }
        return answers[verb](domain)

    def _enable(self, _domain: str) -> CommandResult:
        return CommandResult(0, "")

    def _bootout(self, domain: str) -> CommandResult:
        if self.loaded_in != domain:
            return CommandResult(3, "Boot-out failed: 3: No such process")
        if self._gone_at is None:
            self._gone_at = self.clock.seconds + self._drains
        return CommandResult(36, "Boot-out failed: 36: Operation now in progress")

    def _bootstrap(self, domain: str) -> CommandResult:
        if self.loaded_in is not None:
            return CommandResult(5, "Bootstrap failed: 5: Input/output error")
        self.loaded_in = domain
        return CommandResult(0, "")

    def _print(self, domain: str) -> CommandResult:
        if self.loaded_in == domain:
            return CommandResult(0, PRINTED)
        return CommandResult(113, "Could not find service")

    def keeper(self) -> Launchd:
        return Launchd(self, clock=self.clock.time, sleep=self.clock.sleep)


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


@pytest.mark.process
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
    launchctl = Recorded(bootstrap=CommandResult(5, "Bootstrap failed: 5: Input/output error"))
    now = Clock()
    with pytest.raises(ServiceManagerError, match="Bootstrap failed: 5"):
        Launchd(launchctl, clock=now.time, sleep=now.sleep).start()
    assert 60 <= now.seconds < 120


def test_its_state_is_what_launchctl_prints_of_the_service_itself(home: Path) -> None:
    agent = Launchd(Recorded(print=CommandResult(0, PRINTED)))
    state = agent.state()
    assert (state.installed, state.running, state.pid) == (False, True, 4242)
    assert state.said == "running, last exit 0"
    gone = Launchd(Recorded(print=CommandResult(113, "Could not find service"))).state()
    assert (gone.running, gone.pid, gone.said) == (False, None, "not loaded")


def test_a_daemon_is_the_systems() -> None:
    daemon = Launchd(Recorded(), daemon=True)
    assert str(daemon.file) == "/Library/LaunchDaemons/mlx-worker.plist"
    daemon.state()
    assert isinstance(daemon.run, Recorded)
    assert daemon.run.asked[-1] == ["launchctl", "print", "system/mlx-worker"]


# --- a node at work -----------------------------------------------------------------------


@pytest.mark.parametrize("domains", [("gui", "user"), ("user",)])
def test_install_again_waits_for_the_drain_and_the_service_is_up(
    config: Config, home: Path, domains: tuple[str, ...]
) -> None:
    mac = DrainingMac(30, domains)
    mac.keeper().install(describe(config, None))
    assert mac.loaded_in == domains[0]
    assert 30 <= mac.clock.seconds < 32


def test_stop_of_a_node_that_drains_is_no_error_and_start_waits_for_its_label(
    config: Config, home: Path
) -> None:
    mac = DrainingMac(30)
    mac.keeper().stop()
    assert mac.clock.seconds == 0
    mac.keeper().stop()
    mac.keeper().start()
    assert mac.loaded_in == "gui"
    assert 30 <= mac.clock.seconds < 32


def test_uninstall_of_a_node_that_drains_waits_and_takes_the_file_away(
    config: Config, home: Path
) -> None:
    mac = DrainingMac(30, loaded=False)
    mac.keeper().install(describe(config, None))
    mac.keeper().uninstall()
    assert mac.loaded_in is None
    assert not mac.keeper().file.exists()


def test_a_label_that_is_never_released_is_told_after_the_services_own_timeout(
    config: Config, home: Path
) -> None:
    mac = DrainingMac(1e9, loaded=False)
    mac.keeper().install(describe(config, None))
    with pytest.raises(ServiceManagerError, match="still ends mlx-worker after"):
        mac.keeper().uninstall()
    timings = settings.timings(config.supervisor)
    assert mac.clock.seconds > timings.drain + timings.stop + timings.kill
    assert mac.keeper().file.exists()


def test_start_of_a_service_that_runs_is_no_error(config: Config, home: Path) -> None:
    mac = DrainingMac(0)
    mac.keeper().start()
    assert mac.loaded_in == "gui"


def test_without_a_login_at_the_screen_the_background_domain_is_taken(
    config: Config, home: Path
) -> None:
    mac = DrainingMac(0, ("user",), loaded=False)
    agent = mac.keeper()
    agent.install(describe(config, None))
    assert mac.loaded_in == "user"
    assert f"bootstrap user/{os.getuid()}" in mac.asked
    assert agent.state().running
    agent.uninstall()
    assert mac.loaded_in is None
    plist = plist_of(config, daemon=False)
    assert plist["LimitLoadToSessionType"] == ["Aqua", "Background"]


def test_without_any_domain_the_error_says_what_to_do(config: Config, home: Path) -> None:
    mac = DrainingMac(0, ("none",), loaded=False)
    with pytest.raises(ServiceManagerError, match=r"125.*log in at the screen") as refused:
        mac.keeper().install(describe(config, None))
    assert f"`sudo {Path(sys.executable).with_name('mlx-worker')} service install" in str(
        refused.value
    )


def test_other_errors_of_bootout_are_told(home: Path) -> None:
    refused = Recorded(bootout=CommandResult(1, "Operation not permitted"))
    with pytest.raises(ServiceManagerError, match="not permitted"):
        Launchd(refused).stop()


# --- names, accounts, logs ----------------------------------------------------------------


def test_a_second_node_has_a_label_and_logs_of_its_own(config: Config, home: Path) -> None:
    launchctl = Recorded()
    agent = Launchd(launchctl, name="small")
    agent.install(describe(config, None))
    plist = plistlib.loads(agent.file.read_bytes())
    assert agent.file.name == "mlx-worker-small.plist"
    assert plist["Label"] == "mlx-worker-small"
    assert launchctl.asked[0] == ["launchctl", "bootout", f"{TARGET}-small"]
    first = plist_of(config, daemon=False)
    logs = ("StandardErrorPath", "StandardOutPath")
    assert not {first[key] for key in logs} & {plist[key] for key in logs}
    assert not Launchd(launchctl).state().installed


def test_the_services_log_rotates_unless_the_configuration_names_its_file(
    config: Config, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = plist_of(config, daemon=False)["EnvironmentVariables"][LOG_VARIABLE]
    assert named == str(home / "Library/Logs/mlx-worker.log")
    assert named not in plist_of(config, daemon=False).values()
    monkeypatch.setenv(LOG_VARIABLE, named)
    assert with_the_services_file(config.log).file == Path(named)
    own = replace(config.log, file=home / "own.log")
    assert with_the_services_file(own) == own
    itself = replace(config, log=own)
    assert LOG_VARIABLE not in plist_of(itself, daemon=False)["EnvironmentVariables"]


def test_the_installed_account_is_read_back(config: Config, home: Path) -> None:
    agent = Launchd(Recorded())
    assert agent.account() is None
    agent.file.parent.mkdir(parents=True)
    agent.file.write_text(Launchd(Recorded(), daemon=True).text(describe(config, "me")))
    assert agent.account() == "me"
    agent.file.write_text("no property list")
    assert agent.account() is None


def test_an_account_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServiceManagerError, match="no account 'nobody-of-this-name'"):
        give_folder(tmp_path / "logs", "nobody-of-this-name")
    give_folder(tmp_path / "logs", None)
    (tmp_path / "file").touch()
    with pytest.raises(ServiceManagerError, match="cannot be created"):
        give_folder(tmp_path / "file", None)
