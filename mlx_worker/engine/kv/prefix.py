"""How much two token sequences share, and from how many tokens on reuse pays. Pure.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

WORTH_FETCHING: Final = 16
"""Resident tokens below which reading them again is cheaper than joining their KV to a batch."""


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return how many first items are the same; by halving, because slices compare fast."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def begins_alike(a: Sequence[Any], b: Sequence[Any], count: int) -> bool:
    """Return True if the first `count` items are the same; mostly the last of them tells."""
    if len(a) < count or len(b) < count:
        return False
    return bool(a[count - 1] == b[count - 1] and a[:count] == b[:count])
