"""What tells one copy of a model folder from another."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from mlx_worker.models.folder_hash import HEAD, STRIDE, differing, sample, whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 2 * STRIDE + 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "README.md").write_text("not read")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(SIZE)
    return folder


def changed(folder: Path, at: int, name: str = "model.safetensors") -> Path:
    """A copy of the folder with another byte at a place of a file."""
    copy = folder.parent / f"copy-{at}"
    shutil.copytree(folder, copy)
    with (copy / name).open("r+b") as file:
        file.seek(at)
        file.write(b"x")
    return copy


@pytest.mark.parametrize("digest", [sample, whole])
def test_copies_are_the_same(folder: Path, digest: Callable[[Path], dict[str, str]]) -> None:
    shutil.copytree(folder, folder.parent / "copy")
    (folder.parent / "copy" / "README.md").unlink()
    assert set(digest(folder)) == {"config.json", "model.safetensors"}
    assert differing(digest(folder), digest(folder.parent / "copy")) == []


@pytest.mark.parametrize("at", [0, HEAD - 1, STRIDE, SIZE - 1])
def test_sample_sees_the_head_the_end_and_every_stride(folder: Path, at: int) -> None:
    assert differing(sample(folder), sample(changed(folder, at))) == ["model.safetensors"]


def test_whole_sees_every_byte(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(2 * HEAD)
    between = changed(folder, HEAD + 77)
    assert differing(sample(folder), sample(between)) == []
    assert differing(whole(folder), whole(between)) == ["model.safetensors"]


def test_length_and_missing_files_differ(folder: Path) -> None:
    longer = changed(folder, SIZE)
    (longer / "config.json").unlink()
    assert differing(sample(folder), sample(longer)) == ["config.json", "model.safetensors"]
