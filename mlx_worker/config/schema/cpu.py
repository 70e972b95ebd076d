"""The section `[cpu]`: how models compute where MLX has no GPU, on Linux.

[both]
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

AUTO: Final = "auto"
BUNDLED: Final = "bundled"

Threads = Annotated[int, Meta(ge=1, le=1024)]


class CpuConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the matrix products of children that compute on a CPU."""

    blas: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4096,
            description="The library of matrix products. `auto`: numpy's own OpenBLAS, which a"
            " test product has to prove right first, else MLX's own. `bundled`: MLX's own, the"
            " slow reference BLAS. Or the path of a shared library with the CBLAS interface (32-bit"
            " integers), such as a system's OpenBLAS or MKL. Has no effect with a GPU or on macOS.",
        ),
    ] = AUTO
    threads: Annotated[
        Threads | None,
        Meta(
            description="Threads that each model's process uses for one large matrix product."
            " Without this key: what the environment says (`OPENBLAS_NUM_THREADS`,"
            " `OMP_NUM_THREADS`), else one less than the physical cores, shared equally among the"
            " configured models, at least 1.",
        ),
    ] = None
