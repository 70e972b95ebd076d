"""What a process of its own found about the BLAS that mlx calls there.

[both]
"""

from __future__ import annotations

import msgspec


class BlasFacts(msgspec.Struct, frozen=True):
    """Describe the BLAS of one process.

    `library` is the preloaded library that computes, "" for mlx's own; `name` is for people.
    `error` is the largest difference of a test product from what mlx's own kernels sum up, as a
    share of what rounding allows: up to 1 is right. `gflops` is the speed of a product in float32.
    """

    device: str
    library: str
    name: str
    error: float
    gflops: float
