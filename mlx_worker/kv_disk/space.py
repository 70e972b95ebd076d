"""The bounds of the folder: bytes on disk, free bytes of the volume, bytes written in a day.

All calls belong to the thread that writes, and are made while the account is held. [child]
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.eviction import (
    Victim,
    own_victims,
    remove_resting,
    resting_victims,
)
from mlx_worker.kv_disk.index import Entry, SegmentState, saved_bytes
from mlx_worker.kv_disk.payload import BadRecord
from mlx_worker.kv_disk.segments import SEGMENT_BYTES

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from mlx_worker.kv_disk.opened import OpenedFolder

_LEAST_SEGMENTS: Final = 16
"""Segments that the capacity is cut into at least, so that an eviction takes a small part."""

_RESCUED_PART: Final = 4
_RESCUED_DENSITY: Final = 4.0
"""At most a quarter of a segment, worth four times its mean, survives an eviction."""


@dataclass(frozen=True)
class Limits:
    """The bounds of the folder, in bytes."""

    capacity: int
    writes_per_day: int
    free_min: int
    segment_bytes: int = SEGMENT_BYTES


def free_bytes_of(descriptor: int) -> int:
    """Return the bytes of the volume that this user may still fill."""
    status = os.fstatvfs(descriptor)
    return status.f_bavail * status.f_frsize


class Space:
    """Append records and remove segments, within the bounds."""

    def __init__(
        self,
        limits: Limits,
        lock: threading.RLock,
        now: Callable[[], float],
        free_bytes: Callable[[int], int],
    ) -> None:
        self.limits = limits
        self._lock = lock
        self._now = now
        self._free_bytes = free_bytes
        self._segment_bytes = max(1, min(limits.segment_bytes, limits.capacity // _LEAST_SEGMENTS))
        self.evicted_segments = 0

    def is_day_over(self, opened: OpenedFolder, nbytes: int) -> bool:
        """Return True if `nbytes` more would be over the day's budget."""
        budget = self.limits.writes_per_day
        return opened.account.written_today(budget) + nbytes > budget

    def append(self, opened: OpenedFolder, entry: Entry, data: bytes) -> None:
        """Append a record to the active segment, or to a new one, and index the record."""
        state = opened.states.get(opened.active)
        is_full = state is not None and state.end + len(data) > self._segment_bytes
        if state is None or state.is_sealed or (state.end and is_full):
            opened.active = max(opened.active, *opened.states, 0) + 1
            state = SegmentState(0, -1)
        opened.account.charge(len(data), self.limits.writes_per_day)
        try:
            opened.segments.append(opened.active, state.end, data)
        except BadRecord:
            state.is_sealed = True
            raise
        entry.segment, entry.offset = opened.active, state.end
        with self._lock:
            opened.states[opened.active] = state
            state.end += len(data)
            opened.index.add(entry)

    def make_room(self, opened: OpenedFolder, nbytes: int, least: float | None) -> bool:
        """Evict until `nbytes` more bytes are within the bounds; False if they cannot be.

        With `least`, nothing is evicted whose seconds a byte are more than that.
        """
        if nbytes > self.limits.capacity:
            return False
        while not self._fits(opened, nbytes):
            victim = self._victim(opened)
            if victim is None or (least is not None and victim.density > least):
                return False
            if not self._evict(opened, victim, nbytes):
                return False
        return True

    def remove_segment(self, opened: OpenedFolder, number: int) -> None:
        """Remove a segment with all that it holds.

        The index forgets the segment first: to a reader beside, a missing file is damage.
        """
        self.forget_segment(opened, number)
        with contextlib.suppress(FileNotFoundError):
            opened.segments.remove(number)

    def forget_segment(self, opened: OpenedFolder, number: int) -> None:
        """Forget a segment that another program has removed or replaced."""
        with self._lock:
            opened.index.drop_segment(number)
            opened.states.pop(number, None)

    def save_index(self, opened: OpenedFolder) -> None:
        """Save the index if the copy is within the bounds, else leave none."""
        size = saved_bytes(len(opened.index), len(opened.states))
        if not self._fits(opened, size):
            opened.remove_index()  # the new copy is written beside the old one
        if self._fits(opened, size):
            opened.account.charge(size, self.limits.writes_per_day)
            opened.save_index(self._now())

    def _fits(self, opened: OpenedFolder, nbytes: int) -> bool:
        return (
            opened.account.total() + nbytes <= self.limits.capacity
            and self._free_bytes(opened.root) - nbytes >= self.limits.free_min
        )

    def _victim(self, opened: OpenedFolder) -> Victim | None:
        now = self._now()
        with self._lock:
            victims = own_victims(opened.index, opened.states, opened.active, now)
        victims += resting_victims(opened.root, opened.name, now)
        return min(victims, default=None)

    def _evict(self, opened: OpenedFolder, victim: Victim, nbytes: int) -> bool:
        """Remove a segment; False if that changed nothing."""
        self.evicted_segments += 1
        if victim.folder:
            return remove_resting(opened.root, victim)
        rescued = [] if victim.number == opened.active else self._rescued(opened, victim)
        self.remove_segment(opened, victim.number)
        for entry, data in rescued:
            orphan = opened.index.is_orphan(entry.address.kind, entry.start, entry.parent)
            if (
                not orphan
                and not self.is_day_over(opened, len(data))
                and self._fits(opened, nbytes + len(data))
            ):
                # A copy: a reader beside may hold the entry of the old place.
                self.append(opened, replace(entry), data)
        return True

    def _rescued(self, opened: OpenedFolder, victim: Victim) -> list[tuple[Entry, bytes]]:
        """Return the records of a segment that are worth far more than their neighbours."""
        now = self._now()
        with self._lock:
            entries = opened.index.of_segment(victim.number)
            worth = {id(entry): opened.index.worth(entry, now) / entry.length for entry in entries}
        # A chunk before the chunks that follow it.
        entries.sort(key=lambda entry: (-worth[id(entry)], entry.start))
        left = victim.size // _RESCUED_PART
        rescued = []
        for entry in entries:
            if worth[id(entry)] <= victim.density * _RESCUED_DENSITY or entry.length > left:
                break
            with contextlib.suppress(BadRecord, StorageError, FileNotFoundError):
                rescued.append((entry, opened.segments.read_whole(entry.segment, entry.offset)))
                left -= entry.length
        return rescued
