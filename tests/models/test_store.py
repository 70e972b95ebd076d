"""Where the models folder is, and which folder a configured model means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_worker.errors import BadModelFolder, ModelNotFoundError
from mlx_worker.models.store import default_models_dir, locate


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "named").mkdir(parents=True)
    return folder


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    (folder / "beside").mkdir(parents=True)
    return folder


def test_the_environment_says_where_the_models_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_WORKER_MODELS", "~/somewhere")
    assert default_models_dir() == Path.home() / "somewhere"


def test_without_it_they_are_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_WORKER_MODELS", raising=False)
    assert default_models_dir().parts[-2:] == ("mlx-worker", "models")


def test_a_name_is_found_in_the_models_folder(models: Path, configs: Path) -> None:
    assert locate("named", models, configs) == models / "named"


def test_a_name_in_both_places_is_the_pulled_one(models: Path, configs: Path) -> None:
    (configs / "named").mkdir()
    assert locate("named", models, configs) == models / "named"


def test_an_absolute_path_is_itself(models: Path, configs: Path) -> None:
    assert locate(str(configs / "beside"), models) == configs / "beside"


@pytest.mark.parametrize("written", ["beside", "./beside", "../config/beside"])
def test_a_relative_path_starts_at_the_configuration(
    written: str, models: Path, configs: Path
) -> None:
    assert locate(written, models, configs) == configs / "beside"


def test_a_relative_path_without_configuration_starts_here(
    models: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(configs)
    assert locate("beside", models) == configs / "beside"


def test_a_tilde_is_the_home_folder(
    models: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(configs))
    assert locate("~/beside", models) == configs / "beside"


@pytest.mark.parametrize("written", ["nothing", "./nothing", "~nobody-at-all/x", "a" * 5000, ""])
def test_what_is_nowhere_is_not_found_and_says_where_it_was_looked_for(
    written: str, models: Path, configs: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^Model not found: .*looked in") as caught:
        locate(written, models, configs)
    assert "pull" not in caught.value.message


def test_both_places_of_a_bare_name_are_in_the_message(models: Path, configs: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        locate("nothing", models, configs)
    assert str(models / "nothing") in caught.value.message
    assert str(configs / "nothing") in caught.value.message


def test_a_file_is_no_model(models: Path, configs: Path) -> None:
    (configs / "file").touch()
    with pytest.raises(BadModelFolder, match=r"file is not a folder"):
        locate("./file", models, configs)


def test_a_name_of_the_catalog_comes_with_the_command_that_gets_it(models: Path) -> None:
    command = f"`mlx-worker pull smollm2-135m --models-dir {models}` downloads the model"
    with pytest.raises(ModelNotFoundError, match=re.escape(command)):
        locate("smollm2-135m", models)
