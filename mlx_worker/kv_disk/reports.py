"""What a caller is told of the store.

Pure. [both]
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StoreOutcome(Enum):
    """What became of a record that was to be stored."""

    STORED = "stored"
    KNOWN = "known"
    ORPHAN = "orphan"
    REFUSED = "refused"
    DAY = "day"
    FULL = "full"
    BUSY = "busy"
    OFF = "off"


@dataclass(frozen=True)
class Statistics:
    """Counts since the start, and what is on disk now. `off` is "" while the tier works."""

    records: int
    nbytes: int
    total_bytes: int
    written_today: int
    hits: int
    misses: int
    corrupt: int
    evicted_segments: int
    quarantined: int
    off: str
