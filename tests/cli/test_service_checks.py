"""What doctor says of the node as a service: its file, and what macOS does to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from mlx_worker.cli.doctor import service_checks
from mlx_worker.config.load import load_config
from mlx_worker.service.definition import describe
from mlx_worker.service.detect import service_manager
from mlx_worker.service.subprocess_runner import CommandResult
from mlx_worker.system.privacy import guarded, hint
from tests.processes import config_text
from tests.service.recorded import Recorded

if TYPE_CHECKING:
    from mlx_worker.config.schema import Config

AWAKE = "Battery Power:\n sleep        1\nAC Power:\n displaysleep 10\n sleep        0\n"
SLEEPY = AWAKE.replace("sleep        0", "sleep        15")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano: Path) -> Config:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"nano": nano}))
    return load_config(file)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_service_file_that_install_would_write_anew_is_told(
    config: Config, platform: str
) -> None:
    here = service_manager(Recorded(), daemon=False, platform=platform)
    assert list(service_checks.service_files(Recorded(), config, platform)) == []
    here.install(describe(config, None))
    (found,) = service_checks.service_files(Recorded(), config, platform)
    assert found.severity == "ok"
    slower = replace(config, supervisor=replace(config.supervisor, drain_timeout=500.0))
    (found,) = service_checks.service_files(Recorded(), slower, platform)
    assert (found.severity, found.subject) == ("warn", "service file")
    assert str(here.file) in found.said
    assert "mlx-worker service install" in found.advice


def findings(config: Config, **recorded: CommandResult) -> dict[str, str]:
    found = service_checks.of_macos(Recorded(**recorded), config, "darwin")
    return {finding.subject: finding.severity for finding in found}


def test_a_mac_that_stays_awake_and_lets_callers_in_is_well(config: Config) -> None:
    well = findings(
        config,
        pmset=CommandResult(0, AWAKE),
        fdesetup=CommandResult(0, "FileVault is Off."),
        socketfilterfw=CommandResult(0, "Firewall is disabled. (State = 0)"),
        **{"print-disabled": CommandResult(0, 'disabled services = {\n\t"other" => disabled\n}')},
    )
    assert well == {"sleep": "ok", "FileVault": "ok", "firewall": "ok"}


def test_what_a_mac_does_to_a_service_is_told(config: Config) -> None:
    seen_by_others = replace(config, server=replace(config.server, host="0.0.0.0", insecure=True))
    ill = findings(
        seen_by_others,
        pmset=CommandResult(0, SLEEPY),
        fdesetup=CommandResult(0, "FileVault is On."),
        socketfilterfw=CommandResult(0, "Firewall is enabled. (State = 1)"),
        **{"print-disabled": CommandResult(0, '\t"mlx-worker" => disabled\n')},
    )
    assert ill == {
        "sleep": "warn",
        "FileVault": "warn",
        "firewall": "warn",
        "background item": "warn",
    }


def test_a_mac_that_tells_nothing_is_no_warning(config: Config) -> None:
    refused = CommandResult(127, "there is no such command here")
    assert set(findings(config, pmset=refused, fdesetup=refused).values()) == {"ok"}


def test_the_battery_is_asked_where_there_are_no_mains(config: Config) -> None:
    assert findings(config, pmset=CommandResult(0, " sleep 5"))["sleep"] == "warn"


@pytest.mark.parametrize(
    ("prevented", "severity", "said"),
    [
        ("while_working", "warn", "after 15 minutes without work"),
        ("never", "warn", "after 15 minutes, and"),
        ("always", "ok", "never while the node runs"),
    ],
)
def test_sleep_of_a_mac_is_told_by_what_the_node_prevents(
    config: Config, prevented: Any, severity: str, said: str
) -> None:
    supervisor = replace(config.supervisor, prevent_sleep=prevented)
    recorded = Recorded(pmset=CommandResult(0, SLEEPY))
    found, *_ = service_checks.of_macos(recorded, replace(config, supervisor=supervisor), "darwin")
    assert (found.subject, found.severity) == ("sleep", severity)
    assert said in found.said


def test_elsewhere_macos_is_not_asked(config: Config) -> None:
    asked = Recorded()
    assert list(service_checks.of_macos(asked, config, "linux")) == []
    assert asked.asked == []


@pytest.mark.parametrize(
    ("path", "is_guarded"),
    [
        ("/Users/me/Documents/models", True),
        ("/Users/me/Desktop", True),
        ("/Users/me/Downloads/x.toml", True),
        ("/Users/me/Library/Mobile Documents/com~apple~CloudDocs/m", True),
        ("/Volumes/Big/models", True),
        ("/Users/me/models", False),
        ("/Users/me/DocumentsOfMine", False),
        ("/opt/mlx-worker", False),
    ],
)
def test_folders_that_macos_guards_are_known(path: str, *, is_guarded: bool) -> None:
    home = Path("/Users/me")
    expected = [Path(path)] if is_guarded else []
    assert guarded([Path(path)], home=home, platform="darwin") == expected
    assert guarded([Path(path)], home=home, platform="linux") == []


def test_doctor_and_the_error_name_the_guard(config: Config) -> None:
    lies = replace(config, server=replace(config.server, models_dir=Path.home() / "Documents/m"))
    found = [
        maco
        for maco in service_checks.of_macos(Recorded(), lies, "darwin")
        if maco.severity == "warn"
    ]
    assert [finding.subject for finding in found] == ["privacy"]
    assert "Full Disk Access" in found[0].advice
    assert "Full Disk Access" in hint("darwin")
    assert hint("linux") == ""


def test_the_uid_is_that_of_the_user(config: Config) -> None:
    asked = Recorded()
    list(service_checks.of_macos(asked, config, "darwin"))
    assert ["launchctl", "print-disabled", f"gui/{os.getuid()}"] in asked.asked
