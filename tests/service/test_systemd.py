"""The unit fits the configuration; systemctl is answered for, where no systemd runs."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from mlx_worker.config.load import load_config
from mlx_worker.errors import ServiceManagerError
from mlx_worker.service.definition import Definition, describe
from mlx_worker.service.detect import service_manager
from mlx_worker.service.launchd import Launchd
from mlx_worker.service.subprocess_runner import CommandResult, run
from mlx_worker.service.systemd import Systemd
from mlx_worker.supervisor import settings
from mlx_worker.supervisor.process.launch.process import CHILD_COMMAND
from tests.commands import Ran as Ended
from tests.commands import run as command
from tests.processes import config_text
from tests.service.recorded import Recorded
from tests.tools.generated import FILES

if TYPE_CHECKING:
    from mlx_worker.config.schema import Config


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"m": Path("m")}, supervisor="drain_timeout = 99.5"))
    return load_config(file)


def service_of(text: str) -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return unit["Service"]


@pytest.mark.parametrize("daemon", [False, True])
def test_the_unit_fits_the_configuration(config: Config, *, daemon: bool) -> None:
    service = service_of(Systemd(Recorded(), daemon).text(describe(config, None)))
    timings = settings.timings(config.supervisor)
    assert int(service["TimeoutStopSec"]) > timings.drain + timings.stop + timings.kill > 99
    assert service["ExecStart"] == f"{sys.executable} -P -m mlx_worker serve --config {config.file}"
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 0
    assert service["Restart"] == "always"
    assert "RestartPreventExitStatus" not in service
    assert service["NoNewPrivileges"] == "yes"
    assert "MemoryDenyWriteExecute" not in service
    assert ("ProtectSystem" in service) is daemon
    assert service.get("DynamicUser") == ("yes" if daemon else None)


def test_a_daemon_with_an_account_has_no_made_up_one(config: Config) -> None:
    service = service_of(Systemd(Recorded(), daemon=True).text(describe(config, "somebody")))
    assert service["User"] == "somebody"
    assert "DynamicUser" not in service


def verified(text: str, folder: Path, *, user: bool) -> str:
    file = folder / "mlx-worker.service"
    file.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(["--user"] if user else []), "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"XDG_RUNTIME_DIR": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


has_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@has_systemd
@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.parametrize("name", ["plain.toml", 'with 100% $HOME "quotes" and spaces.toml'])
def test_systemd_finds_nothing_wrong(config: Config, name: str, *, daemon: bool) -> None:
    text = Systemd(run, daemon).text(describe(replace(config, file=config.folder / name), None))
    assert verified(text, config.folder, user=not daemon) == ""


@has_systemd
def test_systemd_finds_nothing_wrong_with_the_one_to_copy(tmp_path: Path) -> None:
    text = FILES["deploy/systemd/mlx-worker.service"]()
    there = text.replace("/opt/mlx-worker/.venv/bin/python", sys.executable)
    assert verified(there, tmp_path, user=False) == ""


@has_systemd
def test_a_unit_that_is_wrong_is_found_out(tmp_path: Path) -> None:
    text = FILES["deploy/systemd/mlx-worker.service"]().replace("Type=notify", "Type=nonsense")
    there = text.replace("/opt/mlx-worker/.venv/bin/python", sys.executable)
    with pytest.raises(AssertionError, match="nonsense"):
        assert verified(there, tmp_path, user=False) == ""


def test_install_enables_and_starts_it_and_uninstall_leaves_nothing(config: Config) -> None:
    systemctl = Recorded()
    unit = Systemd(systemctl)
    unit.install(describe(config, None))
    assert "ExecStart" in unit.file.read_text()
    unit.start()
    unit.stop()
    unit.uninstall()
    assert not unit.file.exists()
    assert [" ".join(words[2:]) for words in systemctl.asked] == [
        "daemon-reload",
        "enable mlx-worker.service",
        "restart mlx-worker.service",
        "start mlx-worker.service",
        "stop --no-block mlx-worker.service",
        "disable --now mlx-worker.service",
        "daemon-reload",
    ]
    assert all(words[:2] == ["systemctl", "--user"] for words in systemctl.asked)


NO_BUS = CommandResult(1, "Failed to connect to bus: No medium found")
NO_SYSTEMCTL = CommandResult(127, "systemctl: there is no such command here")


@pytest.mark.parametrize("answer", [NO_BUS, NO_SYSTEMCTL])
@pytest.mark.parametrize(("daemon", "advice"), [(False, "log in as"), (True, "does not run on")])
def test_a_systemd_out_of_reach_is_an_error_with_what_to_do(
    config: Config, answer: CommandResult, advice: str, *, daemon: bool
) -> None:
    unit = Systemd(Recorded(systemctl=answer), daemon)
    with pytest.raises(ServiceManagerError, match=f"{answer.output}; .*{advice}.*mlx-worker serve"):
        unit.stop()
    assert advice in unit.state().said
    fresh = Systemd(Recorded(systemctl=answer))
    with pytest.raises(ServiceManagerError):
        fresh.install(describe(config, None))
    assert not fresh.file.exists()


def test_an_install_that_fails_keeps_the_unit_that_was_there(config: Config) -> None:
    Systemd(Recorded()).install(describe(config, None))
    unit = Systemd(Recorded(systemctl=NO_BUS))
    with pytest.raises(ServiceManagerError):
        unit.install(describe(config, None))
    assert unit.file.exists()


@pytest.mark.parametrize(
    ("said", "running", "pid", "word"),
    [
        ("MainPID=77\nActiveState=active\nSubState=running", True, 77, "active (running)"),
        ("MainPID=77\nActiveState=reloading\nSubState=reload", True, 77, "reloading (reload)"),
        ("MainPID=0\nActiveState=failed\nSubState=failed", False, None, "failed (failed)"),
        ("Unit=of another kind", False, None, "Unit=of another kind"),
    ],
)
def test_its_state_is_what_systemctl_shows(
    said: str, pid: int | None, word: str, *, running: bool
) -> None:
    state = Systemd(Recorded(show=CommandResult(0, said))).state()
    assert (state.running, state.pid, state.said) == (running, pid, word)


def test_a_file_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systemd").write_text("in the way")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    definition = Definition(("/bin/true",), tmp_path, 60)
    with pytest.raises(ServiceManagerError, match="cannot be written"):
        Systemd(Recorded()).install(definition)


def test_each_system_has_its_keeper() -> None:
    assert isinstance(service_manager(run, daemon=False, platform="darwin"), Launchd)
    assert isinstance(service_manager(run, daemon=False, platform="linux"), Systemd)
    with pytest.raises(ServiceManagerError, match="win32"):
        service_manager(run, daemon=False, platform="win32")


def test_a_command_that_is_not_there_ends_with_127() -> None:
    assert run(["no-such-command-anywhere"]).status == 127


# --- the command line ---------------------------------------------------------------------


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
case "$2" in
  stop) echo 2 > {log}.drains ;;
  start) rm {log}.drains ;;
  show)
    left=$(cat {log}.drains 2>/dev/null)
    case "$left" in
      "") echo "MainPID=7
ActiveState=active
SubState=running" ;;
      0) echo "MainPID=0
ActiveState=inactive
SubState=dead" ;;
      *)
        echo $((left - 1)) > {log}.drains
        echo "MainPID=7
ActiveState=deactivating
SubState=stop-sigterm" ;;
    esac ;;
esac
"""
"""A node that is asked to stop is still there when it is looked at twice."""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has systemd")
def test_the_service_commands_drive_systemctl(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, log = tmp_path / "bin" / "systemctl", tmp_path / "log"
    stand_in.parent.mkdir()
    stand_in.write_text(SYSTEMCTL.format(log=log))
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"nano": nano}))
    unit = tmp_path / "home/systemd/user/mlx-worker.service"
    assert command("service", "status").code == 4
    shown = command("service", "install", "--print", "--config", str(file))
    assert shown.code == 0, shown.said
    assert not unit.exists()
    assert str(unit) in command("service", "install", "--config", str(file)).said
    assert unit.read_text() == shown.said
    assert command("service", "status") == Ended(0, "active (running), pid 7\n")
    shown = command("service", "status", "--json")
    assert json.loads(shown.said) == {
        "installed": True,
        "running": True,
        "pid": 7,
        "state": "active (running)",
        "file": str(unit),
    }
    assert command("service", "stop").code == 0
    assert command("service", "status") == Ended(3, "inactive (dead)\n")
    assert command("service", "start").code == 0
    assert command("service", "uninstall").code == 0
    assert not unit.exists()
    verbs = [line.split()[1] for line in log.read_text().splitlines()]
    begun = ["daemon-reload", "enable", "restart"]
    wanted = [*begun, "stop", "start", "stop", "disable", "daemon-reload"]
    assert [verb for verb in verbs if verb != "show"] == wanted
    file.write_text(config_text({"lost": tmp_path / "nowhere"}))
    assert command("service", "install", "--config", str(file)).code == 66


# --- a second node ------------------------------------------------------------------------


def test_a_second_node_has_a_unit_and_folders_of_its_own(config: Config) -> None:
    systemctl = Recorded()
    unit = Systemd(systemctl, daemon=False, name="small")
    unit.install(describe(config, None))
    assert unit.file.name == "mlx-worker-small.service"
    assert systemctl.asked[-1][-1] == "mlx-worker-small.service"
    assert not Systemd(systemctl).state().installed
    service = service_of(Systemd(systemctl, daemon=True, name="small").text(describe(config, None)))
    assert service["StateDirectory"] == service["LogsDirectory"] == "mlx-worker-small"
    assert service["CacheDirectory"] == "mlx-worker-small"
    own = Systemd(systemctl, daemon=True, name="small").text(describe(config, None))
    assert "Environment=XDG_CACHE_HOME=%C/mlx-worker-small\n" in own
    first = Systemd(systemctl, daemon=True).text(describe(config, None))
    assert "CacheDirectory=mlx-worker\nEnvironment=XDG_CACHE_HOME=%C\n" in first


@pytest.mark.parametrize("name", ["a/b", "-x", "ü", "a" * 40, "a b", "../x"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    for kind in (Systemd, Launchd):
        with pytest.raises(ServiceManagerError, match="--name"):
            _ = kind(Recorded(), daemon=False, name=name).file


# --- what is installed is what runs -------------------------------------------------------


def test_a_checkout_in_the_working_folder_is_not_served(config: Config) -> None:
    """The service starts in the configuration's folder, where a checkout may lie."""
    for package in ("mlx_worker", "mlx"):
        (config.folder / package).mkdir()
        (config.folder / package / "__init__.py").write_text("raise SystemExit('shadowed')")
    python = describe(config, None).command[: describe(config, None).command.index("mlx_worker")]
    for words in ((*python, "mlx_worker"), CHILD_COMMAND):
        done = subprocess.run(
            [*words, "--help"],
            cwd=config.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()


def test_the_installed_account_is_read_back(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = Systemd(Recorded())
    assert unit.account() is None
    unit.install(describe(config, None))
    assert unit.account() is None
    unit.file.write_text("[Service]\nUser=me\n")
    assert unit.account() == "me"
