"""A GGUF becomes a model folder that computes the same and speaks the same."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model, load_tokenizer

from mlx_worker.errors import BadModelFolder, ModelNotFoundError, StorageError
from mlx_worker.models.folder import inspect_folder
from mlx_worker.models.pull.gguf import convert, read, rename, resolve_dtype, retype
from mlx_worker.models.pull.gguf_config import llama_config
from mlx_worker.models.pull.gguf_tokenizer import build_tokenizer
from tests.models.synthetic_gguf import (
    ARGS,
    MERGES,
    TEMPLATE,
    TOKENS,
    gguf_metadata,
    gguf_weights,
    plain,
    reference_model,
    write_gguf,
)
from tests.processes import MEASURED

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = mx.array([[1, 20, 33, 4, 250, 99, 7, 64]])


def run_converter(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlx_worker.models.pull.gguf", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def largest(array: mx.array) -> float:
    figure = mx.abs(array).max().item()
    assert isinstance(figure, float)
    return figure


def largest_difference(one: mx.array, other: mx.array) -> float:
    return largest(one - other)


# --- weights ------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_the_converted_model_computes_the_reference_logits(tied: bool, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", tied=tied)
    convert(source, tmp_path / "model", "float32")
    model, config = load_model(tmp_path / "model")
    assert config["tie_word_embeddings"] is tied
    expected = reference_model(tied=tied)(PROMPT)
    assert largest_difference(model(PROMPT), expected) < 1e-5


def test_on_the_cpu_it_is_stored_as_bfloat16(gguf: Path, tmp_path: Path) -> None:
    """Auto means quantized where a GPU is, so the test says the type that a CPU gets."""
    assert resolve_dtype("auto") == ("quantized" if mx.metal.is_available() else "bfloat16")
    convert(gguf, tmp_path / "model", "bfloat16")
    weights = mx.load(str(tmp_path / "model" / "model.safetensors"))
    assert isinstance(weights, dict)
    assert {array.dtype for array in weights.values()} == {mx.bfloat16}


def quantized_gguf_weights() -> dict[str, mx.array]:
    """The reference as mlx reads a Q4_1 GGUF: 4 bits, the embedding 8, the norms float32."""
    arrays = {}
    for name, array in gguf_weights(reference_model()).items():
        if array.ndim == 1:
            arrays[name] = array
            continue
        stem, bits = name.removesuffix(".weight"), 8 if name.startswith("token_embd") else 4
        packed = mx.quantize(array.astype(mx.float16), group_size=32, bits=bits)
        arrays |= zip([name, f"{stem}.scales", f"{stem}.biases"], packed, strict=True)
    return arrays


def test_quantized_weights_are_kept_with_their_own_bits(tmp_path: Path) -> None:
    """Kept or dequantized, it is the same model: float16 arithmetic is the whole difference."""
    renamed = rename(quantized_gguf_weights(), 4, 2)
    config = llama_config(plain(gguf_metadata()), tied=True)
    logits = {}
    for dtype in ("quantized", "float32"):
        folder = tmp_path / dtype
        folder.mkdir()
        weights, quantization = retype(renamed, dtype)
        mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
        (folder / "config.json").write_text(json.dumps(config | quantization))
        model, loaded = load_model(folder)
        logits[dtype] = model(PROMPT).astype(mx.float32)
        if dtype == "quantized":
            assert loaded["quantization"] == {
                "group_size": 32,
                "bits": 4,
                "model.embed_tokens": {"group_size": 32, "bits": 8},
            }
            assert model.model.layers[1].mlp.up_proj.bits == 4
    spread = largest(logits["float32"])
    assert largest_difference(logits["quantized"], logits["float32"]) < 0.02 * spread


def test_a_gguf_without_quantized_weights_says_nothing_of_quantization() -> None:
    weights, quantization = retype({"model.norm.weight": mx.ones(4)}, "quantized")
    assert weights["model.norm.weight"].dtype == mx.float16
    assert quantization == {}


def test_an_array_without_a_place_is_refused() -> None:
    with pytest.raises(BadModelFolder, match=r"no place for: rope_freqs\.weight"):
        rename({"rope_freqs.weight": mx.ones(4)}, 4, 2)
    with pytest.raises(BadModelFolder, match=r"no place for: blk\.0\.ffn_gate_exps\.weight"):
        rename({"blk.0.ffn_gate_exps.weight": mx.ones(4)}, 4, 2)


def test_rows_that_do_not_fit_the_heads_are_refused() -> None:
    with pytest.raises(BadModelFolder, match="6 rows for 4 attention heads"):
        rename({"blk.0.attn_q.weight": mx.ones((6, 4))}, 4, 2)


# --- hyperparameters ----------------------------------------------------------------------


def test_the_config_says_what_the_metadata_says(whole_folder: Path) -> None:
    config = json.loads((whole_folder / "config.json").read_text())
    for name in (
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "rope_theta",
        "max_position_embeddings",
        "rms_norm_eps",
    ):
        assert config[name] == getattr(ARGS, name), name
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"general__architecture": "qwen2"}, "holds a 'qwen2' model; only 'llama'"),
        ({"general__architecture": None}, "holds a None model"),
        ({"llama__block_count": None}, "metadata has no llama.block_count"),
        ({"llama__attention__head_count": 0}, "has 0 attention heads"),
        ({"llama__rope__dimension_count": 8}, "rotates 8 of 16 dimensions"),
        ({"llama__rope__scaling__type": "yarn"}, r"scales its rope \(yarn\)"),
    ],
)
def test_what_mlx_lms_llama_would_compute_otherwise_is_refused(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BadModelFolder, match=complaint):
        llama_config(plain(gguf_metadata(**changes)), tied=True)


# --- tokenizer ----------------------------------------------------------------------------


TEXTS = [
    "hello world",
    " hello  wor\n\tld ",
    "x = 1234; y=12",
    "Grüße, 世界 🌍! naïve",
    "a<tool>b",
    "it's we'LL",
]


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_from_its_tokens(text: str, pre: str) -> None:
    tokenizer = build_tokenizer(plain(gguf_metadata(tokenizer__ggml__pre=pre)))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [("smollm", ["1", "2", "3"]), ("gpt-2", ["12", "3"]), ("llama-bpe", ["12", "3"])],
)
def test_numbers_are_split_as_the_pre_tokenizer_says(pre: str, pieces: list[str]) -> None:
    tokenizer = build_tokenizer(plain(gguf_metadata(tokenizer__ggml__pre=pre)))
    assert tokenizer.encode("123").tokens == pieces


def test_merges_are_applied() -> None:
    tokenizer = build_tokenizer(plain(gguf_metadata()))
    assert tokenizer.encode("hello world").tokens == ["hello", "Ġwor", "l", "d"]
    assert len(MERGES) == len([t for t in TOKENS if len(t) > 1]) - 4


def test_the_folder_loads_as_mlx_lm_loads_it(whole_folder: Path) -> None:
    tokenizer = load_tokenizer(whole_folder)
    assert tokenizer.eos_token_ids == {2}
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.pad_token_id == 2
    assert tokenizer.unk_token_id == 0
    assert tokenizer.chat_template == TEMPLATE
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello 12<tool>"}], add_generation_prompt=True
    )
    spoken = ["<|im_start|>", "hello", "Ġ", "1", "2", "<tool>", "<|im_end|>", "<|im_start|>"]
    assert ids == [TOKENS.index(token) for token in spoken]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello 12<tool>"


def test_a_beginning_of_sequence_is_added_where_the_model_wants_it() -> None:
    changed = gguf_metadata(tokenizer__ggml__add_bos_token=mx.array(True))
    assert build_tokenizer(plain(changed)).encode("hello").tokens == ["<|im_start|>", "hello"]


def test_a_model_without_template_and_roles_gets_none(tmp_path: Path) -> None:
    without: dict[str, Any] = {
        f"tokenizer__ggml__{role}_token_id": None for role in ("padding", "unknown", "bos")
    }
    source = write_gguf(tmp_path / "m.gguf", tokenizer__chat_template=None, **without)
    convert(source, tmp_path / "model", "float32")
    assert not inspect_folder(tmp_path / "model").has_chat_template
    assert "bos_token_id" not in json.loads((tmp_path / "model" / "config.json").read_text())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tokenizer__ggml__model": "llama"}, "tokenizer is 'llama'; only byte-level BPE"),
        ({"tokenizer__ggml__model": None}, "no tokenizer.ggml.model"),
        ({"tokenizer__ggml__pre": "tekken"}, "'tekken'; known are gpt-2, smollm, llama-bpe"),
        ({"tokenizer__ggml__merges": None}, "no tokenizer.ggml.merges"),
    ],
)
def test_an_unknown_tokenizer_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadModelFolder, match=complaint):
        build_tokenizer(plain(gguf_metadata(**changes)))


# --- the program --------------------------------------------------------------------------


@pytest.mark.process
def test_the_program_writes_a_whole_folder(gguf: Path, tmp_path: Path) -> None:
    done = run_converter(str(gguf), str(tmp_path / "new" / "model"), "--dtype", "bfloat16")
    assert (done.returncode, done.stderr) == (0, "")
    assert inspect_folder(tmp_path / "new" / "model").model_type == "llama"


@pytest.mark.process
def test_a_truncated_gguf_is_said_so_in_one_line(gguf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:-100])
    done = run_converter(str(cut), str(tmp_path / "model"))
    assert done.returncode == BadModelFolder.exit_code
    assert done.stderr.startswith("cut.gguf cannot be read as GGUF: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_a_gguf_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Model not found: there is no file"):
        read(tmp_path / "none.gguf")


@pytest.mark.process
def test_a_disk_that_fills_up_is_said_so_and_makes_no_model(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk: the same write fails the same way."""

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    monkeypatch.delenv(MEASURED, raising=False)
    done = run_converter(str(gguf), str(tmp_path / "model"), preexec_fn=small_disk)
    assert done.returncode == StorageError.exit_code
    assert done.stderr.startswith("cannot store ")
    assert done.stderr.count("\n") == 1
    with pytest.raises(BadModelFolder):
        inspect_folder(tmp_path / "model")
