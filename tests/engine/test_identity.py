"""A name for weights: the same for the same, another for others."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from mlx_worker.engine.identity import weights_identity

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def copy(nano: Path, tmp_path: Path) -> Path:
    return shutil.copytree(nano, tmp_path / "elsewhere")


def test_a_copy_of_a_model_has_its_name(nano: Path, copy: Path) -> None:
    assert weights_identity(copy) == weights_identity(nano)


def test_another_training_of_one_shape_has_another_name(nano: Path, copy: Path) -> None:
    weights = bytearray((copy / "model.safetensors").read_bytes())
    half = len(weights) // 2
    weights[half:] = bytes(byte ^ 1 for byte in weights[half:])
    (copy / "model.safetensors").write_bytes(weights)
    assert weights_identity(copy) != weights_identity(nano)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_what_else_the_words_depend_on_is_in_the_name(nano: Path, copy: Path, file: str) -> None:
    with (copy / file).open("a") as content:
        content.write(" ")
    assert weights_identity(copy) != weights_identity(nano)


def test_a_file_of_weights_more_is_another_name(nano: Path, copy: Path) -> None:
    shutil.copy(copy / "model.safetensors", copy / "model-2.safetensors")
    assert weights_identity(copy) != weights_identity(nano)


def test_what_replaces_something_in_the_folder_is_in_the_name(nano: Path) -> None:
    configured = [
        (),
        ("template", "refuse"),
        ("template", "prompt"),
        ("", "prompt"),
        ("temp", "late"),
    ]
    assert len({weights_identity(nano, it) for it in configured}) == len(configured)
