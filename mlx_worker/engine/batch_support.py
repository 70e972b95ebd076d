"""Which models may be batched: those whose tokens in a batch are the same as alone.

A batch pads shorter prompts. Most of mlx_lm's models remove the padding again. In the models named
here the padding runs through a recurrent state, a convolution or a position, so that they generate
other tokens in a batch than alone, or raise an error in the first step of a batch (measured against
mlx_lm 0.32.2 by `tests/families`). These are served one row at a time, which is exact, and their
entry in `/health` has the reason. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import RotatingKVCache, can_trim_prompt_cache, make_prompt_cache

from mlx_worker.errors import UnservableModel

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATE: Final = "padding runs through its recurrent state"
_MASK: Final = "its attention does not take the mask of a batch"

UNBATCHED: Final[Mapping[str, str]] = {
    "afm7": "padding counts as positions",
    "baichuan_m1": "its last key and value may be padding",
    "bailing_moe_linear": _STATE,
    "gemma2": _MASK,
    "gpt_bigcode": "its position is one number for all rows",
    "jamba": _STATE,
    "longcat_flash_ngram": "its n-gram context may be padding",
    "mamba": _STATE,
    "nemotron_h": _STATE,
    "olmo_hybrid": _STATE,
    "phi3small": _MASK,
    "recurrent_gemma": _STATE,
    "rwkv7": _STATE,
}
"""Modules of mlx_lm.models, and the reason."""


def unbatched_because(model: Any) -> str:
    """Return why a model is served one row at a time; "" for a model that is batched."""
    return UNBATCHED.get(type(model).__module__.rpartition(".")[2], "")


def logit_count(model: Any) -> int:
    """Return how many tokens the model has logits for, by their shape: nothing is computed."""
    return int(model(mx.array([[0]]), cache=make_prompt_cache(model)).shape[-1])


def is_cuttable(model: Any) -> bool:
    """Return True if the model's KV can be cut at any token, at any length.

    Raises UnservableModel for a kind of cache that mlx_lm's batch does not take at all.
    """
    cache = make_prompt_cache(model)
    for layer in cache:
        if not hasattr(layer, "merge"):
            raise UnservableModel(
                f"mlx_lm cannot put a {type(layer).__name__} into a batch, not even alone"
            )
    windowed = any(isinstance(layer, RotatingKVCache) for layer in cache)
    return bool(can_trim_prompt_cache(cache)) and not windowed
