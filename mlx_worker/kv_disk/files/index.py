"""What one identity has on disk, in memory: rebuilt from headers, or from a saved copy.

[both]
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from mlx_worker.kv_disk.files.records import Address, Kind, Mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlx_worker.kv_disk.files.records import Record, RecordHeader

T = TypeVar("T")

HALF_LIFE: Final = 7 * 86_400.0
"""Seconds after which a use counts half."""

_PAUSE: Final = 0.0001


def in_pieces(items: Iterable[T], size: int) -> Iterator[T]:
    """Yield all items, with a pause after each `size` of them.

    A thread that computes in Python holds up the thread that decodes for up to 5 ms, each time
    that the latter comes back from mlx. In the pause the latter takes its turn at once.
    """
    for count, item in enumerate(items, 1):
        yield item
        if not count % size:
            time.sleep(_PAUSE)


def release(items: list[T], size: int) -> None:
    """Empty a list, with a pause after each `size` items: 100,000 entries take 40 ms at once."""
    for _ in in_pieces(range(0, len(items), size), 1):
        del items[-size:]


def decay(age: float) -> float:
    """Return how much a use of `age` seconds ago counts."""
    return float(0.5 ** (min(max(0.0, age), 1e9) / HALF_LIFE))


@dataclass(slots=True, eq=False)
class IndexEntry:
    """A record on disk. `uses` is the count at `used_at`."""

    address: Address
    parent: bytes
    start: int
    stop: int
    seconds: float
    segment: int
    offset: int
    length: int
    mark: Mark
    uses: float
    used_at: float

    def uses_at(self, now: float) -> float:
        """Return the uses, of which those long ago count less."""
        return self.uses * decay(now - self.used_at)


@dataclass(slots=True)
class SegmentState:
    """A segment: the end of its last record, its size and time of change when last looked at.

    `worth` is the value of its records at `valued_at`. Nothing is appended to a sealed segment:
    what lies behind its last record cannot be believed.
    """

    end: int
    changed: int
    worth: float = 0.0
    valued_at: float = 0.0
    is_sealed: bool = False


class Index:
    """Find records by address, by segment and by the record before."""

    def __init__(self) -> None:
        self._entries: dict[Address, IndexEntry] = {}
        self._of_segment: defaultdict[int, set[Address]] = defaultdict(set)
        self._after: defaultdict[bytes, set[Address]] = defaultdict(set)
        self._worth: dict[int, tuple[float, float]] = {}
        """The worth of a segment, and when: all worth decays alike, until a record changes."""
        self.nbytes = 0
        self.set_aside = 0
        """Records that are under suspicion."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[IndexEntry]:
        return iter(self._entries.values())

    def get(self, address: Address) -> IndexEntry | None:
        """Return the record with this address, None where there is none."""
        return self._entries.get(address)

    def add(self, entry: IndexEntry) -> None:
        """Add a record; a later record with the same address replaces an earlier one."""
        if entry.address in self._entries:
            self.remove(entry.address)
        self._entries[entry.address] = entry
        self._of_segment[entry.segment].add(entry.address)
        self._after[entry.parent].add(entry.address)
        self._value_anew(entry)
        self.nbytes += entry.length
        self.set_aside += entry.mark is not Mark.LIVE

    def mark(self, entry: IndexEntry, mark: Mark) -> None:
        """Change the mark of a record."""
        if entry.address in self._entries:
            self.set_aside += (mark is not Mark.LIVE) - (entry.mark is not Mark.LIVE)
        entry.mark = mark
        self._value_anew(entry)

    def use(self, entry: IndexEntry, now: float) -> None:
        """Count a use of a record."""
        entry.uses = entry.uses_at(now) + 1
        entry.used_at = now
        self._worth.pop(entry.segment, None)

    def remove(self, address: Address) -> None:
        """Remove a record."""
        entry = self._entries.pop(address)
        self._of_segment[entry.segment].discard(address)
        after = self._after[entry.parent]
        after.discard(address)
        if not after:
            del self._after[entry.parent]
        self._value_anew(entry)
        self.nbytes -= entry.length
        self.set_aside -= entry.mark is not Mark.LIVE

    def of_segment(self, number: int) -> list[IndexEntry]:
        """Return the records of a segment."""
        return [self._entries[address] for address in self._of_segment.get(number, ())]

    def drop_segment(self, number: int) -> None:
        """Remove all records of a segment."""
        for address in list(self._of_segment.pop(number, ())):
            self.remove(address)
        self._of_segment.pop(number, None)
        self._worth.pop(number, None)

    def stops_after(self, parent: bytes) -> list[int]:
        """Return where the records that follow the key `parent` end, the longest first."""
        after = self._after.get(parent, ())
        return sorted({self._entries[address].stop for address in after}, reverse=True)

    def is_orphan(self, kind: Kind, start: int, parent: bytes) -> bool:
        """Return True if a chunk follows a chunk that is not on disk."""
        return kind is Kind.DELTA and start > 0 and Address(kind, parent) not in self._entries

    def worth(self, entry: IndexEntry, now: float) -> float:
        """Return the prefill seconds that keeping the record is expected to save.

        A record whose chain is broken before the record cannot be used, and is worth nothing.
        """
        if entry.mark is not Mark.LIVE:
            return 0.0
        if self.is_orphan(entry.address.kind, entry.start, entry.parent):
            return 0.0
        return entry.seconds * entry.uses_at(now)

    def segment_worth(self, number: int, now: float) -> float:
        """Return the worth of all records of a segment."""
        if number not in self._worth:
            worth = sum(self.worth(entry, now) for entry in self.of_segment(number))
            self._worth[number] = (worth, now)
        worth, at = self._worth[number]
        return worth * decay(now - at)

    def _value_anew(self, entry: IndexEntry) -> None:
        """Forget the worth of a record's segment, and that of the chunks after the record."""
        if not self._worth:  # as while the index is filled
            return
        self._worth.pop(entry.segment, None)
        for address in self._after.get(entry.address.key, ()):
            self._worth.pop(self._entries[address].segment, None)


def new_entry(record: Record, length: int, now: float) -> IndexEntry:
    """Return the entry of a record that is about to be written."""
    return IndexEntry(
        record.address,
        record.parent,
        record.start,
        record.stop,
        record.seconds,
        segment=0,
        offset=0,
        length=length,
        mark=Mark.LIVE,
        uses=1.0,
        used_at=now,
    )


def entry_of(header: RecordHeader, segment: int, offset: int, now: float) -> IndexEntry:
    """Return the entry of a record that was found by a scan."""
    return IndexEntry(
        header.address,
        header.parent,
        header.start,
        header.stop,
        header.seconds,
        segment,
        offset,
        header.length,
        header.mark,
        uses=1.0,
        used_at=now,
    )
