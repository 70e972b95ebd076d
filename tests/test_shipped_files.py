"""The files a reader copies: configurations load, the plist and the unit fit the configuration."""

from __future__ import annotations

import configparser
import plistlib
from pathlib import Path

import pytest

from mlx_worker.config import load_config
from mlx_worker.supervisor.lifecycle import Timings

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "config").glob("*.toml"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_configuration_loads(file: Path) -> None:
    config = load_config(file)
    assert sum(model.default for model in config.models) == 1
    assert config.server.host == "127.0.0.1"


def test_the_readmes_configuration_loads(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text().split("```toml\n")[1].split("```")[0]
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "system.txt").write_text("You are shown.")
    file = tmp_path / "mlx-worker.toml"
    file.write_text(text)
    (model,) = load_config(file).models
    assert model.warm == (tmp_path / "prompts" / "system.txt",)


def test_launchd_waits_longer_than_a_drain_takes() -> None:
    plist = plistlib.loads((ROOT / "deploy/launchd/mlx-worker.plist").read_bytes())
    timings = Timings()
    assert plist["ProgramArguments"][1:3] == ["serve", "--config"]
    assert all(path.startswith("/") for path in plist["ProgramArguments"] if "/" in path)
    assert plist["KeepAlive"] is True
    assert plist["ExitTimeOut"] > timings.drain + timings.stop + timings.kill


def test_systemd_waits_longer_than_a_drain_takes() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy/systemd/mlx-worker.service")
    timings = Timings()
    needed = timings.drain + timings.stop + timings.kill
    assert int(unit["Service"]["TimeoutStopSec"]) > needed
    assert unit["Service"]["RestartPreventExitStatus"].split() == ["65", "66", "78"]
