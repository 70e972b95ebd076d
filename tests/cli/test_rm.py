"""`rm` removes a folder of the models folder that is not in use, after a question."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from mlx_worker.models.pull.lock import pull_lock
from tests.commands import Ran, run
from tests.processes import running_node

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def models(tmp_path: Path, nano: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with two models, and a configuration of one of them."""
    folder = tmp_path / "models"
    for name in ("used", "unused"):
        shutil.copytree(nano, folder / name)
    (tmp_path / "mlx-worker.toml").write_text(
        f'[server]\nport = 1\nmodels_dir = "{folder}"\n[[models]]\nid = "m"\npath = "used"\n'
    )
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_model_is_removed_after_a_question(models: Path) -> None:
    assert run("rm", "unused", said="n\n").code == 1
    assert (models / "unused").is_dir()
    ran = run("rm", "unused", said="y\n")
    assert ran.code == 0
    assert f"{models / 'unused'} is removed" in ran.said
    assert [entry.name for entry in models.iterdir()] == ["used"]


def test_a_script_says_yes_beforehand(models: Path) -> None:
    (models / ".pulling-unused").mkdir()
    assert run("rm", "unused", "--yes").code == 0
    assert [entry.name for entry in models.iterdir()] == ["used"], "nothing of the pull is left"


def test_a_configured_model_is_kept(models: Path) -> None:
    ran = run("rm", "used", "--yes")
    assert ran.code == 75
    assert "is the folder of 'm' in " in ran.said
    assert (models / "used").is_dir()


def refused(models: Path, name: str) -> Ran:
    ran = run("rm", name, "--yes", "--models-dir", str(models))
    assert (models / "used").is_dir()
    assert (models / "unused").is_dir()
    return ran


def test_what_is_not_in_the_models_folder_is_wrong_usage(models: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (models / "link").symlink_to(models / "unused")
    for name in ("../elsewhere", str(tmp_path / "elsewhere"), ".", "..", "", "used/..", "link"):
        assert refused(models, name).code == 2, name
    assert (tmp_path / "elsewhere").is_dir()


def test_an_unknown_name_is_66_with_the_names_there_are(models: Path) -> None:
    ran = refused(models, "unsued")
    assert ran.code == 66
    assert "has no model 'unsued', only unused, used; did you mean 'unused'" in ran.said


def test_a_model_that_is_being_pulled_is_kept(models: Path) -> None:
    with pull_lock(models, "unused"):
        assert refused(models, "unused").code == 73


@pytest.mark.full
def test_a_model_that_the_node_has_loaded_is_kept(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    with running_node(folder, {"m": models / "unused"}) as node:
        node.wait_until_ready()
        port = node.url.rpartition(":")[2]
        config = tmp_path / "mlx-worker.toml"
        config.write_text(config.read_text().replace("port = 1", f"port = {port}"))
        ran = refused(models, "unused")
    assert ran.code == 75
    assert f"has loaded {models / 'unused'} as 'm'" in ran.said
