"""Tiny models, made on the spot: what the tests serve instead of a downloaded model.

The llamas are those that `mlx-worker bench` makes; most tests serve one. The other families are
here for their caches: a sliding window, recurrent states.

Only the standard library is used. The process that runs the tests thus stays free of mlx (one that
has used it cannot be forked), and the files are the same bytes whatever versions are installed.

As a script: ``python tests/synthetic_models.py nano DEST``.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mlx_worker.bench.synthetic.family import GAINS, Family, Shape, Spec
from mlx_worker.bench.synthetic.folder import make_folder
from mlx_worker.bench.synthetic.llama import (
    LLAMA,
    NANO,
    TINY,
    around,
    attention,
    llama_config,
    norms,
    perceptron,
)
from mlx_worker.bench.synthetic.tokenizer import IM_END, SPECIALS, VOCABULARY, WORDS

__all__ = ["IM_END", "SPECS", "VOCABULARY", "WORDS", "make", "make_nano", "make_tiny"]

# The usual one, for a model that reasons and calls tools as Qwen does.
CALLER_TEMPLATE = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}"
    "{{- 'Tools:' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if not (tools and loop.first and message.role == 'system') %}"
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}"
    "{%- for tool_call in message.tool_calls or [] %}"
    "{%- set tool_call = tool_call.function %}"
    '{{- \'<tool_call>\\n{"name": "\' + tool_call.name + \'", "arguments": \' }}'
    "{{- (tool_call.arguments | tojson) + '}\\n</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking %}{{- '<think>\\n' }}{%- endif %}"
    "{%- endif %}"
)
THINK, THOUGHT = "<think>", "</think>"
CALL, CALLED = "<tool_call>", "</tool_call>"
CALL_PARTS = ('{"name": "look", "arguments": {"at": ', '"the river"}}', '"the moon"}}')
"""Tokens of their own, so that a test can have the model say a whole call by biases alone."""

WINDOW = 32
"""Tokens that the sliding layers of "window" see."""
CONVOLUTION = 4
"""Tokens that a short convolution in front of a recurrent state sees."""
TIME_RANK = 4
"""Channels that say how far a step of time is."""
STATE = 16
"""What a state-space mixer keeps, by the number of a head's channels."""
FORGETTING = 0.01
"""How fast a recurrent state decays: about this share of it a token."""


def gemma3_config(spec: Spec) -> dict[str, Any]:
    head = spec.hidden // spec.heads
    return {
        **llama_config(spec),
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": head,
        "query_pre_attn_scalar": head // 4,  # attention that picks
        "sliding_window": WINDOW,
        "sliding_window_pattern": spec.layers,
    }


def falcon_h1_config(spec: Spec) -> dict[str, Any]:
    head = spec.hidden // spec.heads
    return {
        **llama_config(spec),
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        "head_dim": head,
        "mamba_d_conv": CONVOLUTION,
        "mamba_d_head": head,
        "mamba_d_ssm": spec.hidden,
        "mamba_d_state": STATE,
        "mamba_n_heads": spec.heads,
        "mamba_rms_norm": True,
    }


def qwen3_next_config(spec: Spec) -> dict[str, Any]:
    head = spec.hidden // spec.heads
    return {
        **llama_config(spec),
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "head_dim": head,
        "partial_rotary_factor": 0.5,
        "full_attention_interval": spec.layers,
        "linear_num_key_heads": spec.heads,
        "linear_num_value_heads": spec.heads,
        "linear_key_head_dim": head,
        "linear_value_head_dim": head,
        "linear_conv_kernel_dim": CONVOLUTION,
        # Every layer's perceptron is dense.
        "num_experts": 0,
        "num_experts_per_tok": 0,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 0,
        "shared_expert_intermediate_size": 0,
    }


def qwen2_config(spec: Spec) -> dict[str, Any]:
    return {
        **llama_config(spec),
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
    }


def deepseek_v3_config(spec: Spec) -> dict[str, Any]:
    head = spec.hidden // spec.heads
    return {
        **llama_config(spec),
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "kv_lora_rank": head,
        "q_lora_rank": None,
        "qk_nope_head_dim": head // 2,
        "qk_rope_head_dim": head // 2,
        "v_head_dim": head,
    }


def mamba_config(spec: Spec) -> dict[str, Any]:
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "state_size": STATE,
        "conv_kernel": CONVOLUTION,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": TIME_RANK,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": spec.context,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "eos_token_id": SPECIALS.index(IM_END),
        "dtype": "float32",
    }


def mamba2_config(spec: Spec) -> dict[str, Any]:
    return {
        **mamba_config(spec),
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "num_heads": spec.heads,
        "head_dim": spec.intermediate // spec.heads,
        "n_groups": 1,
        "time_step_limit": [0.0, 1e9],
    }


def mixer(name: str, hidden: int, inner: int, heads: int) -> dict[str, Shape]:
    """A state-space mixer of one group."""
    mixed = inner + 2 * STATE
    return {
        f"{name}.in_proj.weight": (inner + mixed + heads, hidden),
        f"{name}.conv1d.weight": (mixed, CONVOLUTION, 1),
        f"{name}.conv1d.bias": (mixed,),
        f"{name}.dt_bias": (heads,),
        f"{name}.A_log": (heads,),
        f"{name}.D": (heads,),
        f"{name}.norm.weight": (inner,),
        f"{name}.out_proj.weight": (hidden, inner),
    }


def gemma3_shapes(spec: Spec) -> dict[str, Shape]:
    head = spec.hidden // spec.heads
    return around(
        spec,
        {
            **norms(spec.hidden, "input_layernorm", "post_attention_layernorm"),
            **attention(spec),
            **norms(head, "self_attn.q_norm", "self_attn.k_norm"),
            **norms(spec.hidden, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
            **perceptron(spec),
        },
    )


def falcon_h1_shapes(spec: Spec) -> dict[str, Shape]:
    return around(
        spec,
        {
            **norms(spec.hidden, "input_layernorm", "pre_ff_layernorm"),
            **attention(spec),
            **mixer("mamba", spec.hidden, spec.hidden, spec.heads),
            **perceptron(spec, "feed_forward"),
        },
        norm="final_layernorm",
    )


def qwen3_next_shapes(spec: Spec) -> dict[str, Shape]:
    hidden, head = spec.hidden, spec.hidden // spec.heads
    shared = {
        **norms(hidden, "input_layernorm", "post_attention_layernorm"),
        **perceptron(spec),
    }
    linear: dict[str, Shape] = {
        "linear_attn.in_proj_qkvz.weight": (4 * hidden, hidden),
        "linear_attn.in_proj_ba.weight": (2 * spec.heads, hidden),
        "linear_attn.conv1d.weight": (3 * hidden, CONVOLUTION, 1),
        "linear_attn.dt_bias": (spec.heads,),
        "linear_attn.A_log": (spec.heads,),
        "linear_attn.norm.weight": (head,),
        "linear_attn.out_proj.weight": (hidden, hidden),
    }
    full = {
        **attention(spec),
        "self_attn.q_proj.weight": (2 * hidden, hidden),  # with the gate
        **norms(head, "self_attn.q_norm", "self_attn.k_norm"),
    }
    layers = {
        f"model.layers.{layer}.{part}": shape
        for layer in range(spec.layers)
        for part, shape in {**shared, **(full if layer + 1 == spec.layers else linear)}.items()
    }
    return {**around(spec, {}), **layers}


def qwen2_shapes(spec: Spec) -> dict[str, Shape]:
    return around(
        spec,
        {
            **norms(spec.hidden, "input_layernorm", "post_attention_layernorm"),
            **attention(spec),
            **{f"self_attn.{part}_proj.bias": (spec.hidden,) for part in "qkv"},
            **perceptron(spec),
        },
    )


def deepseek_v3_shapes(spec: Spec) -> dict[str, Shape]:
    """Return layers whose cache is one latent vector a token, and the part that is rotated."""
    hidden, head = spec.hidden, spec.hidden // spec.heads
    return around(
        spec,
        {
            **norms(hidden, "input_layernorm", "post_attention_layernorm"),
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.kv_a_proj_with_mqa.weight": (head + head // 2, hidden),
            "self_attn.kv_a_layernorm.weight": (head,),
            "self_attn.embed_q.weight": (spec.heads, head, head // 2),
            "self_attn.unembed_out.weight": (spec.heads, head, head),
            "self_attn.o_proj.weight": (hidden, hidden),
            **perceptron(spec),
        },
    )


def mamba_shapes(spec: Spec) -> dict[str, Shape]:
    hidden, inner = spec.hidden, spec.intermediate
    return backbone(
        spec,
        {
            "mixer.in_proj.weight": (2 * inner, hidden),
            "mixer.conv1d.weight": (inner, CONVOLUTION, 1),
            "mixer.conv1d.bias": (inner,),
            "mixer.x_proj.weight": (TIME_RANK + 2 * STATE, inner),
            "mixer.dt_proj.weight": (inner, TIME_RANK),
            "mixer.dt_proj.bias": (inner,),
            "mixer.A_log": (inner, STATE),
            "mixer.D": (inner,),
            "mixer.out_proj.weight": (hidden, inner),
        },
    )


def mamba2_shapes(spec: Spec) -> dict[str, Shape]:
    return backbone(spec, mixer("mixer", spec.hidden, spec.intermediate, spec.heads))


def backbone(spec: Spec, mixer: Mapping[str, Shape]) -> dict[str, Shape]:
    """Mixers alone, under the names that mambas have."""
    block = {**norms(spec.hidden, "norm"), **mixer}
    return {
        "backbone.embeddings.weight": (VOCABULARY, spec.hidden),
        **{
            f"backbone.layers.{layer}.{part}": shape
            for layer in range(spec.layers)
            for part, shape in block.items()
        },
        "backbone.norm_f.weight": (spec.hidden,),
        "lm_head.weight": (VOCABULARY, spec.hidden),
    }


RECURRENT = {
    **GAINS,
    "conv1d": 1.5,
    "in_proj": 1.5,
    "in_proj_qkvz": 2.0,
    "in_proj_ba": 1.0,
    "out_proj": 2.0,
    "x_proj": 1.0,
    "dt_proj": 1.0,
}
"""How far the matrices of recurrent mixers stretch a vector, beside the usual ones."""


def constant(name: str, shape: Shape, *, unit: float = 1.0) -> float | None:
    """What is not noise: norms pass on (`unit` is a weight that does), states forget slowly."""
    *_, owner, last = name.split(".")
    if last == "A_log":
        return math.log(FORGETTING)
    if len(shape) != 1:
        return None
    if last == "bias" or owner.endswith("conv1d"):
        return 0.0
    return unit if last == "weight" else 1.0


def recurrent(
    config: Callable[[Spec], dict[str, Any]],
    shapes: Callable[[Spec], dict[str, Shape]],
    **gains: float,
) -> Family:
    return Family(config, shapes, {**RECURRENT, **gains}, constant)


GEMMA3 = Family(
    gemma3_config,
    gemma3_shapes,
    {**GAINS, "embed_tokens": 1.0},
    partial(constant, unit=0.0),
)
FALCON_H1 = recurrent(falcon_h1_config, falcon_h1_shapes)
# Here norms count from 1, as in what mlx_lm converts: a raw checkpoint's count from 0.
QWEN3_NEXT = recurrent(qwen3_next_config, qwen3_next_shapes, out_proj=5.0, o_proj=5.0)
QWEN2 = Family(qwen2_config, qwen2_shapes, constant=constant)
DEEPSEEK_V3 = Family(
    deepseek_v3_config,
    deepseek_v3_shapes,
    {**GAINS, "kv_a_proj_with_mqa": 2.0, "embed_q": 2.0, "unembed_out": 2.0},
)
MAMBA = recurrent(mamba_config, mamba_shapes, in_proj=2.0, out_proj=4.0)
MAMBA2 = recurrent(mamba2_config, mamba2_shapes, in_proj=2.0, out_proj=4.0)

SMALL = Spec(hidden=32, layers=2, heads=2, intermediate=64, seed=2)
SPECS: Mapping[str, tuple[Spec, Family]] = {
    "nano": (NANO, LLAMA),
    "tiny": (TINY, LLAMA),
    # It reasons and calls tools: a format that mlx_lm knows.
    "caller": (
        replace(
            NANO,
            template=CALLER_TEMPLATE,
            added=(THINK, THOUGHT, CALL, CALLED, *CALL_PARTS),
        ),
        LLAMA,
    ),
    # Two layers that see 32 tokens back, then one that sees everything.
    "window": (replace(SMALL, layers=3, seed=4), GEMMA3),
    # Attention and a state-space mixer side by side in each layer.
    "statespace": (replace(SMALL, seed=3), FALCON_H1),
    # A layer of gated linear attention, then one of ordinary attention.
    "delta": (SMALL, QWEN3_NEXT),
    # Of a family that mlx_lm splits over processes both ways: by heads and by layers.
    "pipelined": (replace(SMALL, layers=3, heads=4, seed=3), QWEN2),
    # Attention whose keys and values are made of one latent vector a token.
    "latent": (replace(SMALL, seed=1), DEEPSEEK_V3),
    # No attention at all.
    "recurrent": (replace(SMALL, heads=4, seed=3), MAMBA2),
    # The same, of a family whose code in mlx_lm does not know of padding: not to be batched.
    "unpadded": (replace(SMALL, layers=1, heads=1, seed=5), MAMBA),
}


def make_nano(folder: Path) -> Path:
    return make("nano", folder)


def make_caller(folder: Path) -> Path:
    """A model that reasons and calls tools, once it is made to."""
    return make("caller", folder)


def make_tiny(folder: Path) -> Path:
    return make("tiny", folder)


def make(name: str, folder: Path) -> Path:
    """Write the model called *name* into *folder* and return the folder."""
    spec, family = SPECS[name]
    return make_folder(spec, family, folder)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make a tiny model for tests and benchmarks.")
    parser.add_argument("name", choices=SPECS)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    make(chosen.name, chosen.folder)


if __name__ == "__main__":
    main()
