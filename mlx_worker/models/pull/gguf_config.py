"""A llama GGUF's hyperparameters, as the config.json that mlx_lm reads.

Metadata keys are those of the GGUF specification. What mlx_lm's llama could not compute the
same way is refused here, because a model that is slightly wrong looks like a bad model. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker.errors import BadModelFolder

if TYPE_CHECKING:
    from collections.abc import Mapping


def llama_config(metadata: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """Make config.json's content from a GGUF's metadata (plain Python values).

    `tied`: the output matrix is the embedding. Raises BadModelFolder for another architecture,
    a missing key, or a rope that mlx_lm's llama does not have.
    """
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise BadModelFolder(f"the GGUF holds a {architecture!r} model; only 'llama' is converted")
    hidden, heads = int(need(metadata, "llama.embedding_length")), _heads(metadata)
    head_dim = int(metadata.get("llama.attention.key_length", hidden // heads))
    _require_plain_rope(metadata, head_dim)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": int(need(metadata, "llama.block_count")),
        "intermediate_size": int(need(metadata, "llama.feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata.get("llama.attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "rms_norm_eps": _decimal(need(metadata, "llama.attention.layer_norm_rms_epsilon")),
        "vocab_size": len(need(metadata, "tokenizer.ggml.tokens")),
        "max_position_embeddings": int(need(metadata, "llama.context_length")),
        "rope_theta": _decimal(metadata.get("llama.rope.freq_base", 10000.0)),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
    } | _token_ids(metadata)


def need(metadata: Mapping[str, Any], key: str) -> Any:
    """Return a metadata value without which there is no model."""
    if key not in metadata:
        raise BadModelFolder(f"the GGUF's metadata has no {key}")
    return metadata[key]


def _heads(metadata: Mapping[str, Any]) -> int:
    heads = int(need(metadata, "llama.attention.head_count"))
    if heads < 1:
        raise BadModelFolder(f"the GGUF's metadata has {heads} attention heads")
    return heads


def _require_plain_rope(metadata: Mapping[str, Any], head_dim: int) -> None:
    rotated = int(metadata.get("llama.rope.dimension_count", head_dim))
    if rotated != head_dim:
        raise BadModelFolder(f"the GGUF rotates {rotated} of {head_dim} dimensions: not supported")
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise BadModelFolder(f"the GGUF scales its rope ({scaling}): not supported")


def _token_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    ids = {kind: metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    return {f"{kind}_token_id": int(value) for kind, value in ids.items() if value is not None}


def _decimal(value: float) -> float:
    """Give back the decimal that was meant: GGUF stores 1e-5 as the float32 9.9999997e-06."""
    return float(f"{value:.7g}")
