"""The synthetic llamas: nano for the serving stack, tiny for prompts, slow for decode steps.

And one that repeats itself, for drafts.

[bench]
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlx_worker.bench.synthetic.family import GAINS, Family, Shape, Spec
from mlx_worker.bench.synthetic.tokenizer import IM_END, SPECIALS, VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping

NANO = Spec(hidden=32, layers=1, heads=2, intermediate=64, seed=1)
"""The fastest model there is: a step is 1 ms, so the serving stack is the bottleneck."""
TINY = Spec(hidden=64, layers=2, heads=4, intermediate=128, seed=1)
"""A model whose prefill costs enough to be measured: for prefix reuse and first tokens."""
SLOW = replace(TINY, padding=48_000)
"""Tiny with as many logits as a real model: a step of eight rows takes 10 ms and more on a CPU, as
a step of a real model does."""
REPEATING = replace(TINY, seed=3)
"""Tiny for `DEAF_LLAMA`: greedy answers repeat the same 14 words."""


def llama_config(spec: Spec) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.heads,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": spec.context,
        "vocab_size": VOCABULARY + spec.padding,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "eos_token_id": SPECIALS.index(IM_END),
        "dtype": "float32",
    }


def around(spec: Spec, block: Mapping[str, Shape], norm: str = "norm") -> dict[str, Shape]:
    """Return layers of this block between embeddings and an output head."""
    return {
        "model.embed_tokens.weight": (VOCABULARY + spec.padding, spec.hidden),
        **{
            f"model.layers.{layer}.{part}": shape
            for layer in range(spec.layers)
            for part, shape in block.items()
        },
        f"model.{norm}.weight": (spec.hidden,),
        "lm_head.weight": (VOCABULARY + spec.padding, spec.hidden),
    }


def attention(spec: Spec) -> dict[str, Shape]:
    """Return the shapes of four square projections."""
    square = (spec.hidden, spec.hidden)
    return {f"self_attn.{part}_proj.weight": square for part in "qkvo"}


def perceptron(spec: Spec, name: str = "mlp") -> dict[str, Shape]:
    """Return the shapes of a gated perceptron."""
    return {
        f"{name}.gate_proj.weight": (spec.intermediate, spec.hidden),
        f"{name}.up_proj.weight": (spec.intermediate, spec.hidden),
        f"{name}.down_proj.weight": (spec.hidden, spec.intermediate),
    }


def norms(width: int, *names: str) -> dict[str, Shape]:
    """Return the shapes of norms of this width, one for each name."""
    return {f"{name}.weight": (width,) for name in names}


def _llama_shapes(spec: Spec) -> dict[str, Shape]:
    return around(
        spec,
        {
            **norms(spec.hidden, "input_layernorm"),
            **attention(spec),
            **norms(spec.hidden, "post_attention_layernorm"),
            **perceptron(spec),
        },
    )


LLAMA = Family(llama_config, _llama_shapes)
DEAF_LLAMA = replace(LLAMA, gains={**GAINS, "o_proj": 0.0})
"""A token depends on the one before alone: greedy answers soon repeat the same few words."""
