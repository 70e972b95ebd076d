"""The files a reader copies: configurations load."""

from __future__ import annotations

import plistlib
import re
from pathlib import Path

import pytest

from mlx_worker.config.load import load_config
from tests.commands import run

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").glob("*.toml"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_configuration_loads(file: Path) -> None:
    config = load_config(file)
    assert sum(model.default for model in config.models) == 1
    assert config.server.host == "127.0.0.1"


def test_the_readmes_configuration_copied_whole_passes_check(
    tmp_path: Path, nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the model is the only thing that the file asks for."""
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m").symlink_to(nano)
    monkeypatch.setenv("MLX_WORKER_MODELS", str(tmp_path / "models"))
    file = tmp_path / "mlx-worker.toml"
    file.write_text(text)
    checked = run("check", str(file))
    assert checked.code == 0, checked.said
    assert "smollm2-135m, current-model  answers for unknown names" in checked.said


def test_the_wired_limit_is_set_at_each_start() -> None:
    plist = plistlib.loads((ROOT / "deploy/launchd/mlx-worker.wired-limit.plist").read_bytes())
    assert plist["RunAtLoad"] is True
    program, setting = plist["ProgramArguments"]
    assert Path(program).is_absolute()
    name, _, megabytes = setting.partition("=")
    assert (name, int(megabytes) > 0) == ("iogpu.wired_limit_mb", True)


def test_the_daemon_to_copy_has_a_home_that_its_account_can_write() -> None:
    plist = plistlib.loads((ROOT / "deploy/launchd/mlx-worker.plist").read_bytes())
    home = plist["EnvironmentVariables"]["HOME"]
    assert plist["WorkingDirectory"] == home
    words = (ROOT / "docs/how-to/service.md").read_text()
    assert f"-addUser {plist['UserName']} -roleAccount -UID 399 -home {home}" in words
    assert f"chown -R {plist['UserName']} {home}" in words
    assert f"install -d -o {plist['UserName']} {Path(plist['StandardErrorPath']).parent}" in words
