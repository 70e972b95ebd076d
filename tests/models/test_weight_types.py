"""The type in which weights are held, and their bytes in it, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_worker.config.schema import Config, ModelConfig
from mlx_worker.errors import ModelNotFoundError
from mlx_worker.models.folder import inspect_folder
from mlx_worker.models.header import read_header
from mlx_worker.models.resolve import inspect_model
from mlx_worker.models.weight_types import AS_STORED, WeightTypes

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.models.folder import ModelFolder

HALF: Final[dict[str, np.ndarray]] = {
    "w": np.zeros((4, 8), np.float16),
    "q": np.zeros(10, np.uint32),
    "n": np.zeros(3, "f4"),
}
STORED = 2 * 32 + 4 * 10 + 4 * 3


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> ModelFolder:
    """A folder with an array in float16, one of integers and one in float32."""
    copy = shutil.copytree(whole_folder, tmp_path / "model")
    save_file(HALF, copy / "model.safetensors")
    return inspect_folder(copy)


def test_a_header_tells_floats_of_16_and_of_32_bits(folder: ModelFolder) -> None:
    header = read_header(folder.path / "model.safetensors")
    assert (header.weight_bytes, header.half_bytes, header.single_bytes) == (STORED, 64, 12)
    assert (folder.weight_bytes, folder.half_bytes, folder.single_bytes) == (STORED, 64, 12)


def test_auto_is_float32_only_on_a_fast_cpu_with_memory_for_twice_as_much(
    folder: ModelFolder,
) -> None:
    twice = 2 * (STORED + 64)
    chosen = WeightTypes(prefers_float32=True, limit=twice).applied_to(folder)
    assert (chosen.dtype, chosen.weight_bytes) == ("float32", STORED + 64)
    for types in (
        AS_STORED,
        WeightTypes(prefers_float32=False, limit=twice),
        WeightTypes(prefers_float32=True, limit=twice - 1),
    ):
        assert types.applied_to(folder) == folder


def test_a_model_that_is_float32_already_stays_as_it_is(whole_folder: Path) -> None:
    folder = inspect_folder(whole_folder)
    assert folder.half_bytes == 0
    assert WeightTypes(prefers_float32=True, limit=1 << 40).applied_to(folder) == folder


def test_a_configured_type_counts_whatever_the_machine(folder: ModelFolder) -> None:
    single = AS_STORED.applied_to(folder, "float32")
    assert (single.dtype, single.weight_bytes) == ("float32", STORED + 64)
    half = WeightTypes(prefers_float32=True, limit=1 << 40).applied_to(folder, "bfloat16")
    assert (half.dtype, half.weight_bytes) == ("bfloat16", STORED - 6)


def test_a_header_without_types_still_counts_bytes(tmp_path: Path) -> None:
    header = json.dumps({"w": {"data_offsets": [0, 8]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert read_header(file).weight_bytes == 8
    assert read_header(file).half_bytes == 0


def test_weights_of_a_draft_model_count_in_the_type_of_the_model(
    folder: ModelFolder,
) -> None:
    def inspected(**settings: Any) -> ModelFolder:
        model = ModelConfig(id="m", path=str(folder.path), draft=str(folder.path), **settings)
        return inspect_model(Config(models=(model,)), model)

    assert inspected().weight_bytes == 2 * STORED
    assert inspected(dtype="float32").weight_bytes == 2 * (STORED + 64)
    assert inspected().draft == folder.path
    # No process has a draft model there.
    assert inspected(speculation="off").draft is None
    assert inspected(speculation="off").weight_bytes == STORED


def test_draft_model_that_is_not_there_is_named_by_its_key(folder: ModelFolder) -> None:
    model = ModelConfig(id="m", path=str(folder.path), draft="/nowhere/draft")
    with pytest.raises(ModelNotFoundError, match="model 'm': draft: ") as refused:
        inspect_model(Config(models=(model,)), model)
    assert refused.value.param == "draft"
