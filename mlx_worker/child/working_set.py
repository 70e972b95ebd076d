"""How much memory the device can hold for models.

Metal recommends a working set; beyond it allocations fail or the system swaps. On machines with 16
to 32 GB that is about two thirds of the memory, less than the node's own default. A CUDA device has
memory of its own, often less than the machine has, and mlx keeps to a part of it. A CPU names none.
[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CUDA_PERCENT: Final = 95
"""What mlx's allocator takes of a CUDA device before it gives back what it keeps for reuse
(mlx/backend/cuda/allocator.cpp)."""


def working_set(device: Mapping[str, Any]) -> int | None:
    """Return the bytes that models may take together, out of mlx's facts; None on a CPU.

    On Metal that is recommendedMaxWorkingSetSize.
    """
    size = device.get("max_recommended_working_set_size")
    if has_own_memory(device):
        size = device["total_memory"] * CUDA_PERCENT // 100
    return size if isinstance(size, int) and size > 0 else None


def has_own_memory(device: Mapping[str, Any]) -> bool:
    """Return True for a CUDA device: a process's resident set omits what it holds there."""
    return "compute_capability_major" in device
