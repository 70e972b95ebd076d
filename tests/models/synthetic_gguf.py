"""A llama GGUF made from nothing, and the mlx_lm model that it must turn into.

The weights are random and the vocabulary is bytes with a handful of merges: enough to see every
step of a conversion, small enough to make one for each test.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers.pre_tokenizers import ByteLevel

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISIBLE = ["<tool>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "1 2", "Ã ¶"]
TOKENS = [
    *SPECIAL,
    *VISIBLE,
    *sorted(ByteLevel.alphabet()),
    *(merge.replace(" ", "") for merge in MERGES),
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)

ARGS = ModelArgs(
    model_type="llama",
    hidden_size=64,
    num_hidden_layers=2,
    intermediate_size=96,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    vocab_size=len(TOKENS),
    rope_theta=50_000.0,
    max_position_embeddings=256,
    tie_word_embeddings=True,
)

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def reference_model(*, tied: bool = True) -> Model:
    """A random llama of mlx_lm's own: what a converted GGUF is compared with."""
    mx.random.seed(7)
    model = Model(ModelArgs(**(vars(ARGS) | {"tie_word_embeddings": tied})))
    mx.eval(model.parameters())
    return model


def gguf_weights(model: Model) -> dict[str, mx.array]:
    """The model's arrays with GGUF's names and GGUF's interleaved rope rows."""
    heads = {"attn_q": ARGS.num_attention_heads, "attn_k": ARGS.num_key_value_heads}
    arrays = {}
    for name, array in tree_flatten(model.parameters()):
        module = name.removesuffix(".weight")
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
        part = _NAMES[match[2]] if match else _NAMES[module]
        stem = f"blk.{match[1]}.{part}" if match else part
        arrays[f"{stem}.weight"] = _interleaved(array, heads[part]) if part in heads else array
    return arrays


def gguf_metadata(**changes: Any) -> dict[str, Any]:
    """Metadata of the reference model; a change to None removes its key (dots as __)."""
    types = [3] * len(SPECIAL) + [4] * len(VISIBLE)
    types += [1] * (len(TOKENS) - len(types))
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.embedding_length": _u32(ARGS.hidden_size),
        "llama.block_count": _u32(ARGS.num_hidden_layers),
        "llama.feed_forward_length": _u32(ARGS.intermediate_size),
        "llama.attention.head_count": _u32(ARGS.num_attention_heads),
        "llama.attention.head_count_kv": _u32(ARGS.num_key_value_heads or 0),
        "llama.attention.layer_norm_rms_epsilon": mx.array(ARGS.rms_norm_eps),
        "llama.rope.freq_base": mx.array(ARGS.rope_theta),
        "llama.context_length": _u32(ARGS.max_position_embeddings or 0),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.token_type": mx.array(types, dtype=mx.int32),
        "tokenizer.ggml.bos_token_id": _u32(1),
        "tokenizer.ggml.eos_token_id": _u32(2),
        "tokenizer.ggml.padding_token_id": _u32(2),
        "tokenizer.ggml.unknown_token_id": _u32(0),
        "tokenizer.chat_template": TEMPLATE,
    }
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


def plain(metadata: dict[str, Any]) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, mx.array) else v for k, v in metadata.items()}


def write_gguf(path: Path, *, tied: bool = True, **changes: Any) -> Path:
    mx.save_gguf(str(path), gguf_weights(reference_model(tied=tied)), gguf_metadata(**changes))
    return path


def _u32(value: int) -> mx.array:
    return mx.array(value, dtype=mx.uint32)


def _interleaved(array: mx.array, heads: int) -> mx.array:
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)
