"""What the rounding of this machine's CPU depends on: its name and its vector instructions.

Libraries choose their kernels by these instructions. A virtual machine may hide some of them from
its guests, and often names no more than the family of the CPU. [child]
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")

_VECTORS: Final = ("amx", "asimd", "avx", "bf16", "f16c", "fma", "i8mm", "sse", "sve")
"""Beginnings of the names of vector instructions, on x86-64 and on ARM."""

_LISTS: Final = ("flags", "Features")


def vector_features(cpuinfo: Path = CPUINFO) -> list[str]:
    """Return the vector instructions of the first CPU in order; none where no file lists them."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, features = line.partition(":")
            if key.strip() in _LISTS:
                return sorted({name for name in features.split() if name.startswith(_VECTORS)})
    return []
