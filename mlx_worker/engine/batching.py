"""Which models may be batched: those whose tokens were seen to stay mlx_lm's.

A batch pads shorter prompts. Most of mlx_lm's models take the padding out again; the ones named
here let it run through a recurrent state, a convolution or a position, and say something else in a
batch than alone (measured against mlx_lm 0.32.2, or read in its code where it says so). They are
served one row at a time, which is exact, and their entry in `/health` says why. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_lm.models.cache import RotatingKVCache, can_trim_prompt_cache, make_prompt_cache

from mlx_worker.errors import UnservableModel

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATE: Final = "padding runs through its recurrent state"

UNBATCHED: Final[Mapping[str, str]] = {
    "afm7": "padding counts as positions",
    "baichuan_m1": "its last key and value may be padding",
    "bailing_moe_linear": f"{_STATE} (read, not measured)",
    "falcon_mamba": _STATE,
    "jamba": f"{_STATE} (read, not measured)",
    "longcat_flash_ngram": "its n-gram context may be padding",
    "mamba": _STATE,
    "nemotron_h": _STATE,
    "olmo_hybrid": f"{_STATE} (read, not measured)",
    "recurrent_gemma": _STATE,
    "rwkv7": f"{_STATE} (read, not measured)",
}
"""Modules of mlx_lm.models, and why."""


def unbatched_because(model: Any) -> str:
    """Why a model is served one row at a time; "" for one that is batched."""
    return UNBATCHED.get(type(model).__module__.rpartition(".")[2], "")


def is_cuttable(model: Any) -> bool:
    """Can the model's KV be cut at any token, however long it has grown?

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
