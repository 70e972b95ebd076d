"""The job of the processes that measure one data structure alone.

[bench]
"""

from __future__ import annotations

import msgspec


class StructureJob(msgspec.Struct, frozen=True):
    """The size and the shape of a data structure, and the seed of its content."""

    size: int
    shape: str
    seed: str
