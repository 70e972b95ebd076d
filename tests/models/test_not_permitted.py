"""A folder that is there and may not be read is told as that, and not as missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlx_worker.errors import BadModelFolder, ModelNotFoundError
from mlx_worker.models.store import inspect_folder, locate

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@pytest.fixture
def model(whole_folder: Path) -> Iterator[Path]:
    """A model that any user may read, asked for by one without rights of its own."""
    parent = Path(tempfile.mkdtemp())
    parent.chmod(0o755)
    model = shutil.copytree(whole_folder, parent / "model")
    for path in (model, *model.iterdir()):
        path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    yield model
    os.seteuid(user)
    for path in (parent, model):
        path.chmod(0o755)
    shutil.rmtree(parent)


def forbid(path: Path, mode: int) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    path.chmod(mode)
    os.seteuid(user)


def test_a_folder_that_may_not_be_entered_is_not_permitted(model: Path) -> None:
    assert locate(str(model), model.parent) == model
    forbid(model.parent, 0o600)
    with pytest.raises(BadModelFolder, match=rf"^{model}: not permitted to read this"):
        locate(str(model), model.parent)
    with pytest.raises(BadModelFolder, match="not permitted"):
        locate("model", model.parent)
    with pytest.raises(ModelNotFoundError):
        locate("/nowhere/at/all", model.parent)


@pytest.mark.parametrize("mode", [0o311, 0o000])
def test_a_folder_that_may_not_be_listed_is_not_permitted(model: Path, mode: int) -> None:
    forbid(model, mode)
    with pytest.raises(BadModelFolder, match=rf"^{model}.*: not permitted to read this"):
        inspect_folder(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_may_not_be_read_is_not_permitted(model: Path, name: str) -> None:
    forbid(model / name, 0o000)
    with pytest.raises(BadModelFolder, match=rf"{name}: not permitted to read this"):
        inspect_folder(model)
