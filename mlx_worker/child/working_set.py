"""How much memory the device recommends to hold.

Metal names a working set; beyond it allocations fail or the system swaps. On machines with 16 to
32 GB that is about two thirds of the memory, less than the node's own default. CPU and CUDA name
none. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def working_set(device: Mapping[str, Any]) -> int | None:
    """Return Metal's recommendedMaxWorkingSetSize in bytes out of mlx's facts; None elsewhere."""
    size = device.get("max_recommended_working_set_size")
    return size if isinstance(size, int) and size > 0 else None
