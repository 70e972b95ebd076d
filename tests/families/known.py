"""How each architecture of the pinned mlx_lm is served, for docs/reference/architectures.md.

An architecture that is in none of these fails the suite until a trial has shown where it belongs.
What is served one row at a time is the engine's own table, `engine.batch_support.UNBATCHED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import BadModelFolder, UnservableModel

if TYPE_CHECKING:
    from collections.abc import Mapping

MLX_LM: Final = "0.32.2"
"""The version that the trials were made with."""

BATCHED: Final = tuple(
    """
    Klear afmoe apertus bailing_hybrid bailing_moe bailing_moe_v3 cohere cohere2 dbrx
    deepseek deepseek_v2 deepseek_v3 deepseek_v32 dots1 ernie4_5 ernie4_5_moe exaone exaone4
    exaone_moe falcon_h1 gear gemma gemma3 gemma3_text gemma3n gemma4 gemma4_text glm glm4
    glm4_moe glm4_moe_lite glm_moe_dsa gpt2 gpt_neox gpt_oss gptj granite granitemoe
    granitemoehybrid helium hunyuan hunyuan_v1_dense internlm2 internlm3 iquestloopcoder
    kimi_k25 kimi_k3 kimi_linear kimi_vl laguna lfm2 lfm2-vl lfm2_moe lille-130m llama
    llama4_text longcat_flash mamba2 mellum mimo mimo_v2_flash minicpm minicpm3 minimax
    minimax_m3_vl ministral3 mistral3 mistral4 mixtral muse_glimmer nanbeige nanochat
    nemotron nemotron-nas olmo2 olmo3 olmoe openelm phi phi3 phimoe phixtral pixtral plamo
    plamo2 prism_hadamard_qwen35 qwen qwen2 qwen2_moe qwen2_vl qwen3 qwen3_5 qwen3_5_moe
    qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe seed_oss smollm3 solar_open spark2_5 stablelm
    starcoder2 step3p5 talkie telechat3 youtu_llm
    """.split()  # noqa: SIM905  (a hundred names)
)
"""Equal to mlx_lm alone: in a batch, on a resident prefix, after a replay."""


@dataclass(frozen=True)
class Refusal:
    """The error of a load, a part of its message, and why."""

    error: type[Exception]
    message: str
    why: str


REFUSED: Final[Mapping[str, Refusal]] = {
    "deepseek_v41": Refusal(
        UnservableModel, "LayerCache", "mlx_lm's batch does not take its cache, not even alone"
    ),
    "llama4": Refusal(
        UnservableModel,
        "ChunkedKVCache",
        "mlx_lm's batch does not take its cache, not even alone",
    ),
    "olmo": Refusal(
        BadModelFolder,
        "needs a package that is not installed",
        "mlx_lm's module needs the package `ai2-olmo` and exits without it",
    ),
}

INEXACT: Final[Mapping[str, str]] = {
    "plamo3": (
        "mlx_lm's mask lets a chunk of a prompt see one token more than its sliding cache keeps, "
        "so answers depend on how a prompt is cut, with mlx_lm alone too; if a prompt is longer "
        "than the window, a batch, a cached prefix or a replay may change tokens"
    ),
}
"""Served in a batch, with answers that depend on how they are computed beyond rounding."""

NOT_TRIED: Final[Mapping[str, str]] = {
    "bitnet": "its matrix product is a kernel for Metal",
    "muse_spark": "it calls a kernel for Metal",
    "phi3small": (
        "mlx_lm alone ends with a segmentation fault on a CPU; served one row at a time, because "
        "its attention does not take the mask of a batch"
    ),
}
"""Cannot be computed on a CPU, not by mlx_lm alone either."""
