"""Counts of the KV on disk over all processes of a child."""

from __future__ import annotations

from msgspec.structs import replace

from mlx_worker.supervisor.process.disk_totals import COUNTS, DiskTotals
from mlx_worker.wire.prompt_cache import DiskState

REPORT = DiskState(
    records=9,
    bytes=900,
    total_bytes=1000,
    capacity=2000,
    written_today=500,
    hits=4,
    misses=4,
    hit_tokens=4,
    seconds_saved=4,
    quarantined=1,
    corrupt=4,
    evicted_segments=4,
    dropped=4,
    off="",
)


def counted(report: DiskState, count: int) -> DiskState:
    """Return the report of a process that has counted so much of everything."""
    return replace(report, **dict.fromkeys(COUNTS, count))


def test_disk_totals_add_up_over_processes_and_never_go_back() -> None:
    totals = DiskTotals()
    totals.on_report(REPORT, None)
    assert totals.latest == REPORT
    totals.on_report(counted(REPORT, 6), REPORT)
    assert totals.latest == counted(REPORT, 6)
    totals.on_report(counted(REPORT, 6), counted(REPORT, 6))
    assert totals.latest == counted(REPORT, 6)
    new = replace(counted(REPORT, 1), records=3, bytes=300)
    totals.on_report(new, None)
    assert totals.latest == counted(new, 7)
    totals.on_report(counted(new, 0), new)  # a process that counts less is no reason to go back
    assert totals.latest == counted(new, 7)


def test_disk_totals_keep_counts_when_the_disk_is_cleared() -> None:
    totals = DiskTotals()
    totals.on_cleared()
    assert totals.latest is None
    totals.on_report(REPORT, None)
    totals.on_cleared()
    assert totals.latest == replace(REPORT, records=0, bytes=0, quarantined=0)
