"""A name for what was loaded: the same for the same, another for any other number or text."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import mlx.core as mx
import pytest
from mlx import nn

from mlx_worker.engine.loading import read_model
from mlx_worker.engine.weights_hash import check_unchanged, folder_state, model_identity
from mlx_worker.errors import InferenceError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def copy(nano: Path, tmp_path: Path) -> Path:
    return shutil.copytree(nano, tmp_path / "elsewhere")


def loaded(folder: Path) -> str:
    return model_identity(folder, read_model(folder)[0])


def of_numbers(folder: Path, numbers: mx.array) -> str:
    model = nn.Module()
    model.weight = numbers
    return model_identity(folder, model)


def test_a_copy_of_a_model_has_its_name(nano: Path, copy: Path) -> None:
    assert loaded(copy) == loaded(nano)


@pytest.mark.parametrize("place", [-1, -1000, -20_000])
def test_one_other_byte_of_weights_is_another_name(nano: Path, copy: Path, place: int) -> None:
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[place] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert loaded(copy) != loaded(nano)


@pytest.mark.parametrize("kind", [mx.float32, mx.bfloat16, mx.float16, mx.uint32, mx.uint8])
@pytest.mark.parametrize("size", [1, 3, 4096, 3 * 4096 + 5])
def test_any_number_and_any_exchange_of_numbers_counts(
    tmp_path: Path, size: int, kind: mx.Dtype
) -> None:
    numbers = (mx.arange(size) % 100 + 1).astype(kind)
    names = {of_numbers(tmp_path, numbers)}
    for place in {0, size // 2, size - 1}:
        other = mx.array(numbers)
        other[place] = 101
        names.add(of_numbers(tmp_path, other))
    swapped = mx.array(numbers)
    swapped[0], swapped[size - 1] = numbers[size - 1], numbers[0]
    names.add(of_numbers(tmp_path, swapped))
    assert len(names) == (2 if size == 1 else 5)


def test_numbers_of_another_kind_or_shape_are_another_name(tmp_path: Path) -> None:
    zeros = mx.zeros((64, 2))
    names = {of_numbers(tmp_path, value) for value in (zeros, zeros.T, zeros.astype(mx.int32))}
    assert len(names) == 3


def test_a_strided_array_counts_as_its_numbers(tmp_path: Path) -> None:
    numbers = mx.arange(64 * 3).reshape(64, 3)
    assert of_numbers(tmp_path, numbers.T) == of_numbers(tmp_path, mx.contiguous(numbers.T))


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    ],
)
def test_what_else_the_words_depend_on_is_in_the_name(nano: Path, copy: Path, file: str) -> None:
    model = read_model(nano)[0]
    (copy / file).parent.mkdir(exist_ok=True)
    with (copy / file).open("a") as content:
        content.write(" ")
    assert model_identity(copy, model) != model_identity(nano, model)


@pytest.mark.parametrize("file", ["README.md", "model.safetensors.index.json"])
def test_what_no_word_depends_on_is_not(nano: Path, copy: Path, file: str) -> None:
    model = read_model(nano)[0]
    (copy / file).write_text("{}")
    assert model_identity(copy, model) == model_identity(nano, model)


# --- files that change while they are read ----------------------------------------------------


def test_a_folder_that_stays_as_it_is_is_unchanged(copy: Path) -> None:
    check_unchanged(copy, folder_state(copy))


def test_an_edit_that_keeps_size_and_time_is_a_change(copy: Path) -> None:
    before = folder_state(copy)
    path = copy / "model.safetensors"
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(file.read(1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InferenceError, match=r"changed while .* loaded: model.safetensors"):
        check_unchanged(copy, before)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_was_replaced_or_taken_away_is_a_change(copy: Path, file: str) -> None:
    before = folder_state(copy)
    (copy / file).rename(copy / "kept")
    with pytest.raises(InferenceError, match=file):
        check_unchanged(copy, before)
    shutil.copy(copy / "kept", copy / file)
    with pytest.raises(InferenceError, match=file):
        check_unchanged(copy, before)


def test_what_replaces_something_in_the_folder_is_in_the_name(nano: Path) -> None:
    model = read_model(nano)[0]
    configured = [
        (),
        ("template", "refuse"),
        ("template", "prompt"),
        ("", "prompt"),
        ("temp", "late"),
    ]
    assert len({model_identity(nano, model, value) for value in configured}) == len(configured)
