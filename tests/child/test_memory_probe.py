"""What a model needs of memory, found without loading: equal to what a loaded model takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.child.memory_probe import probe
from mlx_worker.engine.kv.cost import measure_kv_cost
from mlx_worker.engine.loading import read_model, weight_bytes
from mlx_worker.errors import BadModelFolder, UnservableModel
from tests.families.made import make_family
from tests.rounds import variants

if TYPE_CHECKING:
    from pathlib import Path

# What transformers says about a configuration that was made up is no finding.
pytestmark = pytest.mark.filterwarnings("ignore")

FAMILIES = (
    "llama",  # full attention, of which this llama has sliding layers too
    "gemma3_text",  # sliding windows
    "qwen3_moe",  # mixtures of experts
    "deepseek_v3",  # latent attention
    "lfm2",  # hybrids: attention and recurrent states
    "mamba2",  # recurrent states alone
)
MORE_OF_EACH = (
    "qwen3",
    "gpt_oss",
    "exaone4",
    "mixtral",
    "minicpm3",
    "qwen3_next",
    "falcon_h1",
    "mamba",
)
DTYPE = "float32"


def stating(folder: Path, **values: object) -> Path:
    """The folder's config.json with these values; the folder's alone has no dtype."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return file


@pytest.mark.parametrize(
    "name",
    [*FAMILIES, *(pytest.param(name, marks=pytest.mark.full) for name in MORE_OF_EACH)],
)
def test_probe_of_an_architecture_finds_what_the_loaded_model_takes(
    name: str, tmp_path: Path
) -> None:
    folder = make_family(name, tmp_path / name)
    file = stating(folder, torch_dtype=DTYPE)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    by_folder, by_config = probe(folder), probe(file)
    computed = mx.get_peak_memory() - before
    model, _, _ = read_model(folder)
    loaded = weight_bytes(model)
    assert computed < loaded / 10
    assert by_folder.weight_bytes == by_config.weight_bytes == loaded
    assert by_folder.kv == by_config.kv == measure_kv_cost(model)
    assert by_folder.unknown == by_config.unknown == ()


@pytest.mark.parametrize(
    "name", variants(["qwen3", "deepseek_v3", "qwen3_next", "mamba2"], ["deepseek_v3"])
)
def test_kv_of_a_probe_is_what_a_long_row_takes(name: str, tmp_path: Path) -> None:
    folder = make_family(name, tmp_path / name)
    model, _, _ = read_model(folder)
    cache = make_prompt_cache(model)
    model(mx.array([[token % 50 for token in range(512)]]), cache=cache)
    mx.eval([layer.state for layer in cache])
    kv = probe(folder).kv
    assert kv is not None
    assert kv.nbytes(512) == sum(layer.nbytes for layer in cache)


def test_probe_of_a_sliding_window_counts_the_window_once(tmp_path: Path) -> None:
    kv = probe(make_family("gemma3_text", tmp_path / "model")).kv
    assert kv is not None
    windows = [part.until for part in kv.growing]
    assert None in windows
    assert any(until is not None for until in windows)
    assert kv.nbytes(2000) - kv.nbytes(1000) < kv.nbytes(1000)


def test_probe_of_recurrent_states_finds_no_growth(tmp_path: Path) -> None:
    kv = probe(make_family("mamba2", tmp_path / "model")).kv
    assert kv is not None
    assert kv.growing == []
    assert kv.nbytes(1) == kv.nbytes(1_000_000) > 0


def test_probe_of_a_model_that_computes_says_that_its_kv_is_unknown(tmp_path: Path) -> None:
    needs = probe(make_family("dbrx", tmp_path / "model"))
    assert needs.kv is None
    assert needs.weight_bytes is not None
    assert [why.partition(":")[0] for why in needs.unknown] == ["KV"]


def test_probe_of_a_model_served_alone_says_why(tmp_path: Path) -> None:
    assert probe(make_family("mamba", tmp_path / "model")).unbatched != ""


def test_probe_of_a_model_that_the_engine_refuses_raises(tmp_path: Path) -> None:
    with pytest.raises(UnservableModel, match="ChunkedKVCache"):
        probe(make_family("llama4", tmp_path / "model"))


def test_probe_of_a_quantized_config_computes_quantized_weights(tmp_path: Path) -> None:
    file = stating(make_family("qwen3", tmp_path / "model"), torch_dtype=DTYPE)
    whole = probe(file).weight_bytes
    quantization = {"group_size": 32, "bits": 4, "lm_head": False}
    packed = probe(stating(file.parent, quantization=quantization)).weight_bytes
    assert whole is not None
    assert packed is not None
    assert whole / 8 < packed < whole / 2


def test_probe_of_a_config_takes_its_dtype(tmp_path: Path) -> None:
    file = stating(make_family("llama", tmp_path / "model"), torch_dtype=DTYPE)
    whole = probe(file)
    half = probe(stating(file.parent, torch_dtype="bfloat16"))
    assert whole.weight_bytes == 2 * (half.weight_bytes or 0)
    assert whole.kv is not None
    assert half.kv is not None
    assert whole.kv.nbytes(100) == 2 * half.kv.nbytes(100)
    assert "bfloat16" in half.notes[0]


def test_probe_of_a_foreign_quantization_does_not_know_the_weights(tmp_path: Path) -> None:
    folder = make_family("llama", tmp_path / "model")
    needs = probe(stating(folder, quantization_config={"quant_method": "awq", "bits": 4}))
    assert needs.weight_bytes is None
    assert needs.kv is not None
    assert "awq" in needs.unknown[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model_type": "nonsense"}, "nonsense not supported"),
        ({"model_type": "llama"}, "cannot build a model"),
        ([], "is no JSON object"),
    ],
)
def test_probe_of_a_config_that_is_no_model_raises(
    content: object, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    with pytest.raises(BadModelFolder, match=reason):
        probe(file)
