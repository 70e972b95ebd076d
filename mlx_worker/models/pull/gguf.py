"""Turn a GGUF of the llama family into a model folder that mlx_lm loads.

    python -m mlx_worker.models.pull.gguf SOURCE.gguf FOLDER [--dtype DTYPE]

A program of its own: the only place outside the children that needs mlx, and a damaged file may
take the process that reads it along. mlx reads GGUF weights already in its own quantized layout
(packed weight, scales, biases), so that keeping them quantized is free and exact. [child]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import msgspec

from mlx_worker.errors import BadModelFolder, ModelNotFoundError, StorageError
from mlx_worker.models.pull.command import run_to_exit_code
from mlx_worker.models.pull.disk import require_space, storing, sync, write_durably
from mlx_worker.models.pull.gguf_config import llama_config
from mlx_worker.models.pull.gguf_tokenizer import build_tokenizer, tokenizer_config

if TYPE_CHECKING:
    from collections.abc import Callable

_GROUP: Final = 32  # weights that share a scale, in every quantized type that mlx reads from GGUF

_OUTSIDE: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INSIDE: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

Weights = dict[str, mx.array]


def convert(source: Path, folder: Path, dtype: str) -> None:
    """Write `source` as a model folder; config.json comes last, when the rest is on the disk.

    `dtype` is a float type's name, "quantized" (keep the packed weights) or "auto". Raises
    BadModelFolder for a GGUF that cannot be converted, StorageError when the disk refuses.
    """
    weights, metadata = read(source)
    config = llama_config(metadata, tied="output.weight" not in weights)
    tokenizer = build_tokenizer(metadata)
    weights = rename(weights, config["num_attention_heads"], config["num_key_value_heads"])
    weights, quantization = retype(weights, resolve_dtype(dtype))
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _save_weights(folder / "model.safetensors", weights)
        write_durably(folder / "tokenizer.json", tokenizer.to_str(pretty=False).encode())
        _write_json(folder / "tokenizer_config.json", tokenizer_config(metadata))
        _write_json(folder / "config.json", config | quantization)
        sync(folder)


def read(source: Path) -> tuple[Weights, dict[str, Any]]:
    """Read a GGUF: its arrays by GGUF name, its metadata as plain Python values."""
    if not source.is_file():
        raise ModelNotFoundError(f"Model not found: there is no file {source}")
    try:
        loaded: Any = mx.load(str(source), format="gguf", return_metadata=True)
    except (RuntimeError, ValueError) as error:
        raise BadModelFolder(f"{source.name} cannot be read as GGUF: {error}") from error
    weights, metadata = loaded
    return weights, {key: _plain(value) for key, value in metadata.items()}


def rename(weights: Weights, heads: int, kv_heads: int) -> Weights:
    """Give the arrays mlx_lm's names, and the rows of q and k mlx_lm's rope order."""
    row_groups = {"q_proj": heads, "k_proj": kv_heads}
    renamed: Weights = {}
    for name, array in weights.items():
        module, kind = _module(name)
        groups = row_groups.get(module.rpartition(".")[2])
        renamed[f"{module}.{kind}"] = _halved_rope(array, groups) if groups else array
    return renamed


def resolve_dtype(dtype: str) -> str:
    """Say what "auto" means here: quantized matrices are slow on a CPU, at home on a GPU.

    On the CPU bfloat16 is half of float32 in every way (SmolLM2-135M at batch 8: 11 tokens/s
    against 6), and decodes the same tokens alone, in a batch and when resumed.
    """
    if dtype != "auto":
        return dtype
    return "quantized" if mx.metal.is_available() else "bfloat16"


def retype(weights: Weights, dtype: str) -> tuple[Weights, dict[str, Any]]:
    """Bring all arrays to one type.

    Returns the arrays, and what config.json has to say of those that stay quantized.
    """
    if dtype == "quantized":
        kept = {n: a if a.dtype == mx.uint32 else a.astype(mx.float16) for n, a in weights.items()}
        return kept, _quantization(weights)
    target: mx.Dtype = getattr(mx, dtype)
    dense = {n: a for n, a in weights.items() if not n.endswith((".scales", ".biases"))}
    return {n: _dequantized(weights, n).astype(target) for n in dense}, {}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, mx.array) else value


def _module(name: str) -> tuple[str, str]:
    """Split a GGUF array's name into mlx_lm's module and weight, scales or biases."""
    stem, _, kind = name.rpartition(".")
    match stem.split("."):
        case ["blk", layer, part] if part in _INSIDE:
            return f"model.layers.{layer}.{_INSIDE[part]}", kind
        case [part] if part in _OUTSIDE:
            return _OUTSIDE[part], kind
    raise BadModelFolder(f"the GGUF has an array that mlx_lm's llama has no place for: {name}")


def _halved_rope(array: mx.array, heads: int) -> mx.array:
    """Reorder rows (heads * head_dim, …) from interleaved rope pairs to two halves a head."""
    rows = array.shape[0]
    if rows % (2 * heads):
        raise BadModelFolder(f"the GGUF has {rows} rows for {heads} attention heads")
    pairs = array.reshape(heads, rows // heads // 2, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _bits(weights: Weights, module: str) -> int:
    packed, scales = weights[f"{module}.weight"], weights[f"{module}.scales"]
    return int(packed.shape[-1] * 32 // (scales.shape[-1] * _GROUP))


def _dequantized(weights: Weights, name: str) -> mx.array:
    module = name.removesuffix(".weight")
    if f"{module}.scales" not in weights:
        return weights[name]
    scales, biases = (weights[f"{module}.{part}"] for part in ("scales", "biases"))
    # In float32, so that rounding happens once, at the end.
    return mx.dequantize(
        weights[name],
        scales.astype(mx.float32),
        biases.astype(mx.float32),
        group_size=_GROUP,
        bits=_bits(weights, module),
    )


def _quantization(weights: Weights) -> dict[str, Any]:
    """Name each quantized matrix with its own bits; the most common are the stated default."""
    modules = [n.removesuffix(".scales") for n in weights if n.endswith(".scales")]
    if not modules:
        return {}
    bits = {module: _bits(weights, module) for module in modules}
    usual = max(bits.values(), key=list(bits.values()).count)
    each = {m: {"group_size": _GROUP, "bits": b} for m, b in bits.items() if b != usual}
    return {"quantization": {"group_size": _GROUP, "bits": usual, **each}}


def _save_weights(path: Path, weights: Weights) -> None:
    require_space(path.parent, sum(array.nbytes for array in weights.values()), path.name)
    try:
        mx.save_safetensors(str(path), weights, {"format": "mlx"})
    except RuntimeError as error:
        raise StorageError(f"cannot store {path}: {error}") from error
    sync(path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_durably(path, msgspec.json.format(msgspec.json.encode(content), indent=2))


def _converting(arguments: argparse.Namespace) -> Callable[[], None]:
    return lambda: convert(arguments.source, arguments.folder, arguments.dtype)


def main() -> int:
    """Convert what the command line names; the exit code says what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m mlx_worker.models.pull.gguf")
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16", "quantized"], default="auto"
    )
    return run_to_exit_code(_converting(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
