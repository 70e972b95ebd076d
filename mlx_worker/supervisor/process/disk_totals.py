"""What all processes of one child have reported of the KV on disk: counts never go back.

A process counts from its start, and the folder outlives the process. So the counts of a process are
added to those of the processes before, and what is on disk is as the last process left the disk.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from mlx_worker.wire.prompt_cache import DiskState

COUNTS: Final = (
    "hits",
    "misses",
    "hit_tokens",
    "seconds_saved",
    "corrupt",
    "evicted_segments",
    "dropped",
)
"""The fields of a report that only grow while a process runs."""


class DiskTotals:
    """The latest report, with the counts of all processes; None before the first report.

    `off` is that of the latest report, also once its process has ended. `reported_at` is on
    `time.monotonic`.
    """

    def __init__(self) -> None:
        self.latest: DiskState | None = None
        self.reported_at = 0.0

    def on_report(self, report: DiskState, before: DiskState | None) -> None:
        """Add what a process has counted since `before`, its last report; None: its first one."""
        counts = {
            name: (getattr(self.latest, name) if self.latest else 0)
            + max(0, getattr(report, name) - (getattr(before, name) if before else 0))
            for name in COUNTS
        }
        self.latest = msgspec.structs.replace(report, **counts)
        self.reported_at = time.monotonic()

    def on_cleared(self) -> None:
        """Note that nothing is on disk any more, of a model without a process."""
        if self.latest is not None:
            self.latest = msgspec.structs.replace(self.latest, records=0, bytes=0, quarantined=0)
