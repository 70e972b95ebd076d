"""The job of the processes that measure one data structure alone.

[bench]
"""

from __future__ import annotations

import msgspec


class StructureJob(msgspec.Struct, frozen=True):
    """How large it is to be, what is in it, and the seed that this is drawn from."""

    size: int
    shape: str
    seed: str
