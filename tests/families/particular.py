"""What one architecture's tiny arguments say beside `sizes`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Text:
    """The text half of a model that can see: the arguments of another module, or another class."""

    module: str
    class_name: str = "ModelArgs"
    more: Mapping[str, Any] = field(default_factory=dict)


_SLIDING: Final = ["sliding_attention", "full_attention"]
_ROPE: Final = {"rope_theta": 10000.0, "rope_type": "default"}
_ROPE_BY_LAYER: Final = {"rope_parameters": dict.fromkeys(_SLIDING, _ROPE)}
_LLAMA_4_ROPE: Final = {
    "rope_theta": 10000.0,
    "rope_type": "yarn",
    "type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 2048,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
_YARN: Final = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}
_DELTA: Final = {
    "num_heads": 4,
    "head_dim": 16,
    "short_conv_kernel_size": 4,
    "kda_layers": [1],
    "full_attn_layers": [2],
}
_ALTERNATING: Final = {"full_attention_interval": 2}

PARTICULAR: Final[Mapping[str, Mapping[str, Any]]] = {
    "afm7": {"num_layers": 3, "num_kv_reuse_layers": 1},
    "baichuan_m1": {"sliding_window_layers": [0], "conv_window": 2},
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"rope_scaling": _YARN, "topk_method": "greedy"},
    "exaone4": {"sliding_window_pattern": "LG", "layer_types": _SLIDING},
    "exaone_moe": {"is_moe_layer": [False, True]},
    "falcon_h1": {
        "embedding_multiplier": 1.0,
        "key_multiplier": 1.0,
        "lm_head_multiplier": 1.0,
        "mlp_multipliers": [1.0, 1.0],
        "ssm_multipliers": [1.0] * 5,
        "ssm_out_multiplier": 1.0,
    },
    "gemma3": {"text_config": Text("gemma3_text")},
    "gemma3n": {
        "text_config": Text(
            "gemma3n",
            "TextConfig",
            {
                "num_hidden_layers": 4,
                "num_kv_shared_layers": 2,
                "layer_types": _SLIDING * 2,
                "activation_sparsity_pattern": [0.5, 0.0, 0.5, 0.0],
                "altup_num_inputs": 2,
                "altup_coef_clip": 120.0,
                "altup_correct_scale": True,
                "altup_active_idx": 0,
                "laurel_rank": 8,
                "final_logit_softcapping": 30.0,
            },
        )
    },
    "gemma4": {"text_config": Text("gemma4_text")},
    "gemma4_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": _SLIDING * 2,
        "rope_parameters": {
            "full_attention": {**_ROPE, "partial_rotary_factor": 0.5},
            "sliding_attention": _ROPE,
        },
    },
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_d_head": 32},
    "hunyuan": {
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
        "cla_share_factor": 2,
        "use_cla": True,
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
    },
    "kimi_k25": {"text_config": Text("deepseek_v3")},
    "kimi_k3": {
        "text_config": Text(
            "kimi_k3",
            "TextArgs",
            {"hidden_act": "situ", "linear_attn_config": _DELTA},
        )
    },
    "kimi_linear": {"linear_attn_config": _DELTA},
    "kimi_vl": {"text_config": Text("kimi_vl", "TextArgs")},
    "laguna": _ROPE_BY_LAYER,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2-vl": {"text_config": Text("lfm2")},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4": {
        "text_config": Text(
            "llama4",
            "TextArgs",
            {
                "num_hidden_layers": 4,
                "interleave_moe_layer_step": 2,
                "attention_chunk_size": 16,
                "num_experts_per_tok": 1,
            },
        )
    },
    "llama4_text": {"no_rope_layers": [1, 0]},
    "longcat_flash": {
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "zero_expert_type": "identity",
    },
    "longcat_flash_ngram": {
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "ngram_vocab_size_ratio": 1,
    },
    "mamba2": {"head_dim": 32, "num_heads": 4},
    "mellum": _ROPE_BY_LAYER,
    "mimo_v2_flash": {"hybrid_layer_pattern": [1, 0], "moe_layer_freq": [0, 1]},
    "minicpm3": {"rope_scaling": {"short_factor": 1.0, "long_factor": 1.0}},
    "minimax_m3_vl": {
        "text_config": Text("minimax_m3_vl", "TextArgs", {"moe_layer_freq": [0, 1]}),
    },
    "ministral3": {"rope_parameters": _LLAMA_4_ROPE},
    "mistral3": {"text_config": Text("ministral3")},
    "mistral4": {"rope_parameters": _LLAMA_4_ROPE},
    "muse_glimmer": {"output_multiplier": 1.0},
    "muse_spark": {
        "audio_config": {"out_hidden_size": 64},
        "text_config": Text(
            "muse_spark",
            "TextArgs",
            {
                "num_shared_experts": 0,
                "layer_rope_theta": [10000.0, 0.0],
                "final_logit_softcapping": 20.0,
                "output_multiplier": 1.0,
                "moe_hidden_size": 32,
            },
        ),
    },
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
        ]
    },
    "nemotron_h": {
        "layer_types": ["mamba", "attention", "mlp", "moe"],
        "routed_scaling_factor": 1.0,
    },
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "openelm": {
        "num_query_heads": [4, 4],
        "num_kv_heads": [2, 2],
        "ffn_multipliers": [1.0, 2.0],
        "ffn_dim_divisor": 16,
    },
    "phi3small": {
        "dense_attention_every_n_layers": 2,
        "gegelu_limit": 20.0,
        "blocksparse_num_local_blocks": 2,
        "blocksparse_vert_stride": 2,
        "mup_width_multiplier": 1.0,
    },
    "pixtral": {"text_config": Text("llama")},
    "plamo": {"n_shared_head": 2},
    "prism_hadamard_qwen35": {
        "schema_version": 1,
        "tensor_namespace": "mlx-lm-text",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {
                "path": f"model.layers.{layer}.mlp.down_proj",
                "embedding": False,
                "dtype": "float16",
                "block": 0,
            }
            for layer in range(2)
        ],
        "text_config": Text("qwen3_5", "TextModelArgs", {**_ALTERNATING, "num_experts": 0}),
    },
    "qwen2_vl": {"text_config": Text("qwen2")},
    "qwen3_5": {
        "text_config": Text("qwen3_5", "TextModelArgs", {**_ALTERNATING, "num_experts": 0})
    },
    "qwen3_5_moe": {"text_config": Text("qwen3_5", "TextModelArgs", _ALTERNATING)},
    "qwen3_next": _ALTERNATING,
    "qwen3_vl": {"text_config": Text("qwen3")},
    "qwen3_vl_moe": {"text_config": Text("qwen3_moe")},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "num_key_value_heads": 1},
    "spark2_5": {**_ROPE_BY_LAYER, "hidden_act": "gelu"},
}
