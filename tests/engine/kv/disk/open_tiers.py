"""The tiers that tests have opened: a test that ends leaves no thread of theirs behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_worker.engine.kv.disk.tier import DiskTier

_OPEN: list[DiskTier] = []


def opened(tier: DiskTier) -> DiskTier:
    """Remember a tier whose writer runs until the test ends, and return it."""
    _OPEN.append(tier)
    return tier


def end_writers() -> None:
    """End the writers of all tiers; what still waits for the disk is dropped."""
    while _OPEN:
        _OPEN.pop().writer.close(0)
