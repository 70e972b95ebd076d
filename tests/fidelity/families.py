"""Which families mlx_lm batches exactly, by the kind of their caches.

What is BATCHED here is proven by the scenarios to say the same in any company. What is UNBATCHED
is served one request at a time, and says why; that mlx_lm still needs this is a test of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Proof:
    """The caches of one family's layers, and the share of all cases that it gets."""

    caches: tuple[str, ...]
    share: float
    why: str = ""
    """Why it is not batched."""


BATCHED: Mapping[str, Proof] = {
    "tiny": Proof(("KVCache", "KVCache"), 0.28),
    "window": Proof(("RotatingKVCache", "RotatingKVCache", "KVCache"), 0.24),
    "latent": Proof(("KVCache", "KVCache"), 0.06),
    "statespace": Proof(("CacheList(ArraysCache, KVCache)",) * 2, 0.14),
    "recurrent": Proof(("ArraysCache", "ArraysCache"), 0.12),
    "delta": Proof(("ArraysCache", "KVCache"), 0.08),
}

UNBATCHED: Mapping[str, Proof] = {
    "unpadded": Proof(
        ("ArraysCache",),
        0.08,
        "mlx_lm/models/mamba.py takes no mask and reads no `lengths`: what pads a prompt that is "
        "read beside a longer one runs through its state",
    ),
}
