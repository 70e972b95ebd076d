"""What the arguments of a tiny model say: by a field's name, and by architecture beside that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.bench.synthetic.tokenizer import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTEXT: Final = 4096
WINDOW: Final = 16
"""Tokens that sliding layers see: fewer than the prompts of the trials have."""

_HIDDEN: Final = 64
_HEADS: Final = 4
_HEAD: Final = 16
_LAYERS: Final = 2
_EXPERTS: Final = 4
_STATE: Final = 16

_SLIDING: Final = ["sliding_attention", "full_attention"]
_LINEAR: Final = ["linear_attention", "full_attention"]
_ROPE: Final = {"rope_theta": 10000.0, "rope_type": "default", "type": "default"}

SIZES: Final[Mapping[str, Any]] = {
    "vocab_size": VOCABULARY,
    "num_vocab": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    **dict.fromkeys(("hidden_size", "hidden_dim", "d_model", "n_embd", "model_dim"), _HIDDEN),
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_transformer_layers"),
        _LAYERS,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "num_heads", "n_heads", "n_head", "swa_num_attention_heads"),
        _HEADS,
    ),
    **dict.fromkeys(
        (
            "num_key_value_heads",
            "num_kv_heads",
            "n_kv_heads",
            "swa_num_key_value_heads",
            "num_attention_groups",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "head_dim",
            "v_head_dim",
            "qk_nope_head_dim",
            "swa_head_dim",
            "swa_v_head_dim",
            "global_head_dim",
            "index_head_dim",
            "kv_channels",
            "hidden_size_per_head",
            "query_pre_attn_scalar",
            "mamba_d_head",
            "mamba_head_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "rotary_dim",
        ),
        _HEAD,
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "n_inner",
            "ff_intermediate_size",
            "ffn_hidden_size",
            "intermediate_size_mlp",
            "dense_intermediate_size",
        ),
        128,
    ),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "expert_ffn_hidden_size",
            "share_expert_dim",
        ),
        32,
    ),
    **dict.fromkeys(
        (
            "num_experts",
            "n_routed_experts",
            "num_local_experts",
            "moe_num_experts",
        ),
        _EXPERTS,
    ),
    **dict.fromkeys(
        (
            "num_experts_per_tok",
            "num_experts_per_token",
            "moe_topk",
            "moe_top_k",
            "moe_k",
            "top_k_experts",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "n_shared_experts",
            "num_shared_experts",
            "num_shared_expert",
            "n_group",
            "topk_group",
            "n_groups",
            "mamba_n_groups",
            "first_k_dense_replace",
            "num_dense_layers",
            "moe_num_shared_experts",
            "decoder_sparse_step",
            "moe_layer_freq",
            "num_expert_group",
            "zero_expert_num",
        ),
        1,
    ),
    **dict.fromkeys(
        (
            "rope_theta",
            "swa_rope_theta",
            "rope_local_base_freq",
            "rotary_emb_base",
            "rope_freq_constant",
        ),
        10000.0,
    ),
    **dict.fromkeys(
        (
            "rms_norm_eps",
            "layer_norm_eps",
            "layer_norm_epsilon",
            "layernorm_epsilon",
            "norm_eps",
            "post_norm_eps",
        ),
        1e-5,
    ),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "model_max_length", "block_size"),
        CONTEXT,
    ),
    **dict.fromkeys(
        (
            "sliding_window",
            "sliding_window_size",
            "attention_window_size",
            "window_size",
            "loop_window_size",
        ),
        WINDOW,
    ),
    "sliding_window_pattern": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "partial_rotary_factor": 0.5,
    "rotary_pct": 0.5,
    "index_n_heads": 2,
    "index_topk": 24,
    "num_swa_attention_heads": _HEADS,
    "num_swa_key_value_heads": 2,
    **dict.fromkeys(
        (
            "conv_kernel",
            "mamba_d_conv",
            "linear_conv_kernel_dim",
            "short_conv_kernel_size",
            "conv1d_width",
        ),
        4,
    ),
    "conv_L_cache": 3,
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), _STATE),
    "time_step_rank": 4,
    **dict.fromkeys(("mamba_num_heads", "mamba_n_heads"), _HEADS),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    "mamba_expand": 2,
    "layer_types": _SLIDING,
    "rope_parameters": _ROPE,
    "rope_scaling": None,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "mlp_only_layers": [],
    "hidden_act": "silu",
    "layer_group_size": 2,
    "group_norm_size": 1,
    "hidden_size_per_layer_input": 16,
    "mamba_d_ssm": _HIDDEN,
    "dim_model_base": _HIDDEN,
    "norm_topk_prob": True,
    "time_step_limit": [0.001, 100.0],
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 16,
    "block_dim": _HIDDEN,
    **dict.fromkeys(
        ("a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "decay_low_rank_dim"), 16
    ),
}
"""Fields that are named here say this in every architecture."""
