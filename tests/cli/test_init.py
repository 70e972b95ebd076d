"""`mlx-worker init` by the real command: its file passes `check`, and a node starts from it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from mlx_worker.cli.model_files.starter_config import EXAMPLES, find_models, starter_config
from mlx_worker.config.load import load_config, parse_config
from mlx_worker.config.reference import keys
from tests.commands import run as run_here
from tests.processes import COMMAND, CONFIG, DEADLINE, running_node

if TYPE_CHECKING:
    from pathlib import Path

ODD = 'an $ODD "name" ü'


def run(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=cwd,
        env=os.environ | {"XDG_CONFIG_HOME": str(cwd / "none")} | environment,
    )


@pytest.fixture
def models(tiny: Path, nano: Path, tmp_path: Path) -> Path:
    """A models folder with two models, half a model, and what a pull that was stopped left."""
    folder = tmp_path / "models"
    shutil.copytree(tiny, folder / "tiny")
    shutil.copytree(nano, folder / ODD)
    (folder / "half").mkdir()
    (folder / ".pulling-other" / "download").mkdir(parents=True)
    return folder


def test_what_is_written_passes_check(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("init", "--models-dir", models, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        f"{CONFIG} is written, with 2 models ({ODD}, tiny) from {models}",
    )
    assert done.stderr.splitlines() == [f"left out half: {models / 'half'} has no config.json"]
    config = load_config(tmp_path / CONFIG)
    assert config.server.models_dir == models
    assert [(model.id, model.default) for model in config.models] == [(ODD, True), ("tiny", False)]
    assert [model.context_length for model in config.models] == [8192, 8192]
    monkeypatch.chdir(tmp_path)
    checked = run_here("check")
    assert checked.code == 0, checked.said
    assert str(models / ODD) in checked.said


@pytest.mark.full
def test_a_node_starts_from_what_is_written(tiny: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(tiny, models / "tiny")
    assert run("init", "--models-dir", models, cwd=tmp_path).returncode == 0
    text = (tmp_path / CONFIG).read_text().replace("port = 8081", "port = 0")
    with running_node(tmp_path, {}, text=text) as node:
        node.wait_until_ready()
        assert node.model("tiny")["contextLength"] == 8192


def test_a_file_is_replaced_by_force_alone(models: Path, tmp_path: Path) -> None:
    file = tmp_path / CONFIG
    file.write_text("not a [configuration")
    refused = run("init", "--models-dir", models, cwd=tmp_path)
    assert refused.returncode == 73
    assert "exists already: name another FILE, or use --force to replace it" in refused.stderr
    assert file.read_text() == "not a [configuration"
    forced = run("init", "--force", cwd=tmp_path, MLX_WORKER_MODELS=str(models))
    assert forced.returncode == 0, forced.stderr
    assert load_config(file).server.models_dir == models


def test_the_models_folder_is_that_of_the_configuration(models: Path, tmp_path: Path) -> None:
    assert run("init", "--models-dir", models, cwd=tmp_path).returncode == 0
    other = run("init", "other.toml", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert (tmp_path / "other.toml").read_text() == (tmp_path / CONFIG).read_text()


def test_without_a_model_the_command_that_fetches_one_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "a folder"
    done = run("init", "--models-dir", empty, cwd=tmp_path)
    assert done.returncode == 66
    assert f"`mlx-worker pull smollm2-135m --models-dir '{empty}'`" in done.stderr
    assert not (tmp_path / CONFIG).exists()


def test_the_folder_of_the_file_is_made(models: Path, tmp_path: Path) -> None:
    assert run("init", "new/file.toml", "--models-dir", models, cwd=tmp_path).returncode == 0
    assert load_config(tmp_path / "new" / "file.toml").models
    (tmp_path / "blocked").touch()
    done = run("init", "blocked/file.toml", "--models-dir", models, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (73, 1)


def test_every_comment_with_a_key_may_be_taken_out(models: Path) -> None:
    text = starter_config(models, find_models(models)[0])
    known = {f"# {name} = " for names in EXAMPLES.values() for name in names}
    known |= {f"# defaults.{name} = " for name in EXAMPLES["models.defaults"]}
    lines = [
        line.removeprefix("# ") if line.startswith(tuple(known)) else line
        for line in text.splitlines()
    ]
    config = parse_config("\n".join(lines), source="written", folder=models)
    assert config.models[0].defaults.max_tokens == 1024
    assert config.models[0].idle_timeout == 900
    assert sum(line.startswith("# ") for line in text.splitlines()) - sum(
        line.startswith("# ") for line in lines
    ) == sum(map(len, EXAMPLES.values()))


def test_every_key_is_one_of_the_schema() -> None:
    for section, names in EXAMPLES.items():
        assert set(names) <= {key.name for key in keys(section)}
