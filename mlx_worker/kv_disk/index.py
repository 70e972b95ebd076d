"""What one identity has on disk, in memory: rebuilt from headers, or from a saved copy.

The saved copy is a shortcut for the start: a segment whose size or time of change differs from the
copy's is scanned. The copy also has what headers lack: how often and when a record was used.

[both]
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.kv_disk.keys import IDENTITY_BYTES, KEY_BYTES
from mlx_worker.kv_disk.payload import BadRecord
from mlx_worker.kv_disk.records import Address, Header, Kind, Mark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.kv_disk.records import Record

HALF_LIFE: Final = 7 * 86_400.0
"""Seconds after which a use counts half."""

MAX_SAVED: Final = 256 << 20
"""Bytes: no saved index is larger."""

_MAGIC: Final = b"MLXWKVIX"
_FORMAT: Final = 1
_HEAD: Final = struct.Struct(f"<8sH{IDENTITY_BYTES}sdII")
_SEGMENT: Final = struct.Struct("<IQqdd")
_ENTRY: Final = struct.Struct(f"<BB{KEY_BYTES}s{KEY_BYTES}sIIdIQQdd")
_CHECK_BYTES: Final = 16
_KINDS: Final = {int(kind): kind for kind in Kind}
_MARKS: Final = {int(mark): mark for mark in Mark}


@dataclass(slots=True, eq=False)
class Entry:
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
        return float(self.uses * 0.5 ** (min(max(0.0, now - self.used_at), 1e9) / HALF_LIFE))


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
        self._entries: dict[Address, Entry] = {}
        self._of_segment: defaultdict[int, set[Address]] = defaultdict(set)
        self._stops: defaultdict[bytes, dict[int, int]] = defaultdict(dict)
        self.nbytes = 0
        self.set_aside = 0
        """Records that are under suspicion."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, address: Address) -> Entry | None:
        """Return the record with this address, None where there is none."""
        return self._entries.get(address)

    def add(self, entry: Entry) -> None:
        """Add a record; a later record with the same address replaces an earlier one."""
        if entry.address in self._entries:
            self.remove(entry.address)
        self._entries[entry.address] = entry
        self._of_segment[entry.segment].add(entry.address)
        stops = self._stops[entry.parent]
        stops[entry.stop] = stops.get(entry.stop, 0) + 1
        self.nbytes += entry.length
        self.set_aside += entry.mark is not Mark.LIVE

    def mark(self, entry: Entry, mark: Mark) -> None:
        """Change the mark of a record."""
        if entry.address in self._entries:
            self.set_aside += (mark is not Mark.LIVE) - (entry.mark is not Mark.LIVE)
        entry.mark = mark

    def remove(self, address: Address) -> None:
        """Remove a record."""
        entry = self._entries.pop(address)
        self._of_segment[entry.segment].discard(address)
        stops = self._stops[entry.parent]
        stops[entry.stop] -= 1
        if not stops[entry.stop]:
            del stops[entry.stop]
            if not stops:
                del self._stops[entry.parent]
        self.nbytes -= entry.length
        self.set_aside -= entry.mark is not Mark.LIVE

    def of_segment(self, number: int) -> list[Entry]:
        """Return the records of a segment."""
        return [self._entries[address] for address in self._of_segment.get(number, ())]

    def drop_segment(self, number: int) -> None:
        """Remove all records of a segment."""
        for address in list(self._of_segment.pop(number, ())):
            self.remove(address)
        self._of_segment.pop(number, None)

    def stops_after(self, parent: bytes) -> list[int]:
        """Return where the records that follow the key `parent` end, the longest first."""
        return sorted(self._stops.get(parent, ()), reverse=True)

    def is_orphan(self, kind: Kind, start: int, parent: bytes) -> bool:
        """Return True if a chunk follows a chunk that is not on disk."""
        return kind is Kind.DELTA and start > 0 and Address(kind, parent) not in self._entries

    def worth(self, entry: Entry, now: float) -> float:
        """Return the prefill seconds that keeping the record is expected to save.

        A record whose chain is broken before the record cannot be used, and is worth nothing.
        """
        if entry.mark is not Mark.LIVE:
            return 0.0
        if self.is_orphan(entry.address.kind, entry.start, entry.parent):
            return 0.0
        return entry.seconds * entry.uses_at(now)


def new_entry(record: Record, length: int, now: float) -> Entry:
    """Return the entry of a record that is about to be written."""
    return Entry(
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


def saved_bytes(entries: int, segments: int) -> int:
    """Return the bytes of a saved copy."""
    return _HEAD.size + segments * _SEGMENT.size + entries * _ENTRY.size + _CHECK_BYTES


def entry_of(header: Header, segment: int, offset: int, now: float) -> Entry:
    """Return the entry of a record that was found by a scan."""
    return Entry(
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


def dump(identity: bytes, index: Index, segments: dict[int, SegmentState], now: float) -> bytes:
    """Return the saved copy."""
    parts = [_HEAD.pack(_MAGIC, _FORMAT, identity, now, len(segments), len(index))]
    for number, state in segments.items():
        worth = sum(index.worth(entry, now) for entry in index.of_segment(number))
        parts.append(_SEGMENT.pack(number, state.end, state.changed, worth, now))
    parts.extend(
        _ENTRY.pack(
            entry.address.kind,
            entry.mark,
            entry.address.key,
            entry.parent,
            entry.start,
            entry.stop,
            entry.seconds,
            entry.segment,
            entry.offset,
            entry.length,
            entry.uses,
            entry.used_at,
        )
        for entry in index
    )
    content = b"".join(parts)
    return content + _check(content)


def parse(
    content: bytes, identity: bytes
) -> tuple[dict[int, SegmentState], dict[int, list[Entry]]]:
    """Return the segments and their entries of a saved copy. Raises BadRecord."""
    if len(content) < _HEAD.size + _CHECK_BYTES or len(content) > MAX_SAVED:
        raise BadRecord("no saved index")
    view = memoryview(content)
    body, check = view[:-_CHECK_BYTES], bytes(view[-_CHECK_BYTES:])
    magic, version, owner, _, segment_count, entry_count = _HEAD.unpack_from(body)
    size = _HEAD.size + segment_count * _SEGMENT.size + entry_count * _ENTRY.size
    if magic != _MAGIC or version != _FORMAT or owner != identity or len(body) != size:
        raise BadRecord("no saved index of this identity")
    if _check(body) != check:
        raise BadRecord("the checksum differs")
    border = _HEAD.size + segment_count * _SEGMENT.size
    segments = {
        number: SegmentState(end, changed, worth, valued_at)
        for number, end, changed, worth, valued_at in _SEGMENT.iter_unpack(
            body[_HEAD.size : border]
        )
    }
    entries: dict[int, list[Entry]] = {number: [] for number in segments}
    try:
        for kind, mark, key, *rest in _ENTRY.iter_unpack(body[border:]):
            parent, start, stop, seconds, segment, offset, length, uses, used_at = rest
            entries[segment].append(
                Entry(
                    Address(_KINDS[kind], key),
                    parent,
                    start,
                    stop,
                    seconds,
                    segment,
                    offset,
                    length,
                    _MARKS[mark],
                    uses,
                    used_at,
                )
            )
    except KeyError:
        raise BadRecord("impossible fields") from None
    return segments, entries


def _check(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECK_BYTES).digest()
