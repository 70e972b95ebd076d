"""Read amounts of memory: bytes, a text such as "12GB", or a share of the machine.

The configuration and the commands use the same notation. [both]
"""

from __future__ import annotations

import re
import sys
from typing import Any, Final

_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY: Final = {"KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", re.IGNORECASE)

LARGEST: Final = 1 << 50


class Size(int):
    """Bytes, 0 to a petabyte."""

    __slots__ = ()

    @classmethod
    def read(cls, value: Any) -> Size:
        """Return the size for a whole number of bytes, or a text such as "12GB" or "1.5 GiB".

        Raises ValueError, which says what is accepted.
        """
        nbytes = _nbytes(value)
        if nbytes is None or not 0 <= nbytes <= LARGEST:
            raise ValueError('Expected bytes, 0 to 2**50, as a whole number or as in "12GB"')
        return cls(nbytes)


class MemoryLimit(float):
    """Bytes, or a share of the machine's memory where it is at most 1."""

    __slots__ = ()

    @classmethod
    def read(cls, value: Any) -> MemoryLimit:
        """Return the limit for bytes as `Size` reads them, or for a share above 0.

        Raises ValueError, which says what is accepted.
        """
        if isinstance(value, float) and 0 < value <= 1:
            return cls(value)
        nbytes = _nbytes(value)
        if nbytes is None or not 1 < nbytes <= LARGEST:
            raise ValueError('Expected bytes as in "12GB", or a share of the machine as in 0.75')
        return cls(nbytes)

    def of(self, machine: int) -> int:
        """Return the limit in bytes, on a machine with this number of bytes."""
        return int(self * machine) if self <= 1 else int(self)


MODELS_SHARE: Final = MemoryLimit(0.75 if sys.platform == "darwin" else 0.8)
"""Of the machine's memory, for models. macOS lets the GPU wire down three quarters; beyond that
allocations fail, or the system with them."""


def in_words(nbytes: int) -> str:
    """Return the bytes as a short text for messages, such as "1.5 GB"."""
    for unit in ("T", "G", "M", "K"):
        if abs(nbytes) >= _UNITS[unit]:
            return f"{nbytes / _UNITS[unit]:.1f} {unit}B"
    return f"{nbytes} bytes"


def _nbytes(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    unit = (found[2] or "").upper()
    return int(float(found[1]) * (_UNITS | _BINARY)[unit])
