"""The bounds of the folder: bytes on disk, free bytes of the volume, bytes written in a day.

All calls belong to the thread that writes, and are made while the account is held. [child]
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.account import NO_NEED, Need
from mlx_worker.kv_disk.eviction import (
    Victim,
    remove_resting,
    resting_victims,
)
from mlx_worker.kv_disk.files.index import IndexEntry, SegmentState, in_pieces
from mlx_worker.kv_disk.files.payload import MAX_DATA, BadRecord
from mlx_worker.kv_disk.files.saved_index import MAX_SAVED, saved_bytes
from mlx_worker.kv_disk.files.segments import MAX_SEGMENTS, SEGMENT_BYTES

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from mlx_worker.kv_disk.files.records import Encoded
    from mlx_worker.kv_disk.opened import OpenedFolder

_LEAST_SEGMENTS: Final = 16
"""Segments that the capacity is cut into at least, so that an eviction takes a small part."""

_MOST_SEGMENTS: Final = MAX_SEGMENTS // 2
_MOST: Final = 1 << 62
_PIECE: Final = 8

TRIAL: Final = bytes(4096)
"""What is written to see if a disk that failed works again."""

NEED_SECONDS: Final = 60.0
"""How long a need of room is heard by the others."""

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

    def __post_init__(self) -> None:
        """Raise ValueError for bounds that no folder can keep."""
        if not 0 < self.segment_bytes <= MAX_DATA:
            raise ValueError(f"segment_bytes of {self.segment_bytes} is out of range")
        if not 0 < self.capacity <= _MOST:
            raise ValueError(f"a capacity of {self.capacity} bytes is out of range")
        if min(self.writes_per_day, self.free_min) < 0:
            raise ValueError("bounds in bytes cannot be negative")


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
        large = max(limits.segment_bytes, limits.capacity // _MOST_SEGMENTS)
        self._segment_bytes = max(1, min(large, limits.capacity // _LEAST_SEGMENTS))
        self._yielded = 0
        self._yielded_at = 0.0
        self.evicted_segments = 0
        self.total_bytes = 0
        self.written_today = 0
        """As measured last: with each write, and by `measure`."""

    def is_day_over(self, opened: OpenedFolder, nbytes: int) -> bool:
        """Return True if `nbytes` more would be over the day's budget."""
        budget = self.limits.writes_per_day
        return opened.account.written_today(budget) + nbytes > budget

    def measure(self, opened: OpenedFolder) -> None:
        """Measure the folder's bytes, and read what was written today."""
        self.total_bytes = opened.account.total()
        self.written_today = opened.account.written_today(self.limits.writes_per_day)

    def append(self, opened: OpenedFolder, entry: IndexEntry, data: Encoded) -> None:
        """Append a record to the active segment, or to a new one, and index the record."""
        state = opened.states.get(opened.active)
        is_full = state is not None and state.end + len(data) > self._segment_bytes
        if state is None or state.is_sealed or (state.end and is_full):
            highest = max(opened.active, *opened.states, 0)
            opened.active = opened.segments.next_number(highest)
            state = SegmentState(0, -1)
        self._charge(opened, len(data))
        try:
            opened.segments.append(opened.active, state.end, data)
        except (BadRecord, StorageError, PermissionError):
            if state.end:  # another program did that to the file: the next record has a new one
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
        while not self._fits(opened, nbytes + self._yielded_bytes(nbytes)):
            victim = self._victim(opened)
            if victim is None or (least is not None and victim.density > least):
                if nbytes:
                    self._say_need(opened, math.inf if least is None else least)
                return False
            if not victim.folder:  # another process may have what is worth less
                self._say_need(opened, victim.density)
            if not self._evict(opened, victim, nbytes):
                return False
        return True

    def yield_room(self, opened: OpenedFolder) -> None:
        """Evict a segment that is worth less than what another process has no room for.

        No process removes what another has open: each removes its own.
        """
        budget = self.limits.writes_per_day
        need = opened.account.need(budget)
        is_now = abs(self._now() - need.at) <= NEED_SECONDS
        if not is_now or need.identity == bytes.fromhex(opened.name):
            return
        victim = self._victim(opened)
        if victim is not None and victim.density < need.density:
            self._evict(opened, victim, 0)
            opened.account.say_need(NO_NEED, budget)
            self._yielded, self._yielded_at = victim.size, self._now()

    def try_write(self, opened: OpenedFolder) -> bool:
        """Write and remove a small file as a record would be written; False if that says nothing.

        Raises OSError or StorageError where the disk fails.
        """
        if not self._fits(opened, len(TRIAL)):
            return False
        self._charge(opened, len(TRIAL))
        return opened.try_write(TRIAL)

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

    def save_index(self, opened: OpenedFolder) -> bool:
        """Save the index if the copy is within the bounds, else leave none.

        False where something else has the name of the index.
        """
        now = self._now()
        for number, _, worth in self._valued(opened, now):
            with self._lock:
                if number in opened.states:
                    opened.states[number].worth = worth
                    opened.states[number].valued_at = now
        if saved_bytes(len(opened.index), len(opened.states)) > MAX_SAVED:
            return True
        pieces = opened.dump_index(now)
        size = sum(map(len, pieces))
        with opened.account.held():
            if not self._fits(opened, size):
                opened.remove_index()  # the new copy is written beside the old one
            if self._fits(opened, size):
                self._charge(opened, size)
                return opened.save_index(pieces)
        return True

    def _yielded_bytes(self, nbytes: int) -> int:
        """Return how many bytes are left to another process before a record is written.

        None for a record that would not fit beside them: it would cost all that is stored.
        """
        is_now = abs(self._now() - self._yielded_at) <= NEED_SECONDS
        fits = 0 < nbytes <= self.limits.capacity - self._yielded
        return self._yielded if is_now and fits else 0

    def _say_need(self, opened: OpenedFolder, density: float) -> None:
        """Tell the other writers what found no room, unless a need as great was said just now."""
        now, budget = self._now(), self.limits.writes_per_day
        need = opened.account.need(budget)
        if need.density < density or not 0 <= now - need.at <= NEED_SECONDS / 2:
            own = bytes.fromhex(opened.name)
            opened.account.say_need(Need(own, density, now), budget)

    def _charge(self, opened: OpenedFolder, nbytes: int) -> None:
        self.written_today = opened.account.charge(nbytes, self.limits.writes_per_day)
        self.total_bytes += nbytes

    def _fits(self, opened: OpenedFolder, nbytes: int) -> bool:
        self.total_bytes = opened.account.total()
        return (
            self.total_bytes + nbytes <= self.limits.capacity
            and self._free_bytes(opened.root) - nbytes >= self.limits.free_min
        )

    def _valued(self, opened: OpenedFolder, now: float) -> Iterator[tuple[int, int, float]]:
        """Yield the number, the size and the worth of each segment.

        The lock is held for one segment at a time: a thread that looks a record up waits for it.
        """
        for number in in_pieces(list(opened.states), _PIECE):
            with self._lock:
                state = opened.states.get(number)
                worth = opened.index.segment_worth(number, now)
            if state is not None:
                yield number, state.end, worth

    def _victim(self, opened: OpenedFolder) -> Victim | None:
        """Return the segment that is worth least; the one being written only if alone."""
        now = self._now()
        own = [
            Victim(worth / max(1, size), "", number, size)
            for number, size, worth in self._valued(opened, now)
        ]
        others = [victim for victim in own if victim.number != opened.active]
        resting = resting_victims(opened.root, opened.name, now)
        return min([*(others or own), *resting], default=None)

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

    def _rescued(self, opened: OpenedFolder, victim: Victim) -> list[tuple[IndexEntry, Encoded]]:
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
