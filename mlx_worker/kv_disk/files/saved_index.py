"""The saved copy of an index: a shortcut for the start.

A segment whose size or time of change differs from the copy's is scanned. The copy also has what
headers lack: how often and when a record was used. All loops over records are in pieces, because
the thread that decodes needs its turns meanwhile. [both]
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.kv_disk.files.index import IndexEntry, SegmentState, in_pieces
from mlx_worker.kv_disk.files.keys import IDENTITY_BYTES, KEY_BYTES
from mlx_worker.kv_disk.files.payload import BadRecord
from mlx_worker.kv_disk.files.records import (
    HEADER_BYTES,
    MAX_RECORD,
    MAX_TOKEN,
    Address,
    Kind,
    Mark,
    checksum,
)

if TYPE_CHECKING:
    from mlx_worker.kv_disk.files.index import Index

MAX_SAVED: Final = 256 << 20
"""Bytes: no saved index is larger."""

_MAGIC: Final = b"MLXWKVIX"
_FORMAT: Final = 1
_HEAD: Final = struct.Struct(f"<8sH{IDENTITY_BYTES}sdII")
_SEGMENT: Final = struct.Struct("<IQqdd")
_ENTRY: Final = struct.Struct(f"<BB{KEY_BYTES}s{KEY_BYTES}sIIdIQQdd")
_CHECK_BYTES: Final = 16
_PIECE: Final = 500
_KINDS: Final = {int(kind): kind for kind in Kind}
_MARKS: Final = {int(mark): mark for mark in Mark}
_MOST: Final = 1e12
"""Uses, seconds and times are less."""


def saved_bytes(entries: int, segments: int) -> int:
    """Return the bytes of a saved copy."""
    return _HEAD.size + segments * _SEGMENT.size + entries * _ENTRY.size + _CHECK_BYTES


def dump(
    identity: bytes, index: Index, segments: dict[int, SegmentState], now: float
) -> list[bytes]:
    """Return the saved copy, in pieces. Records may be forgotten meanwhile, not added."""
    states = list(segments.items())
    count = 0
    pieces = [
        _SEGMENT.pack(number, state.end, state.changed, state.worth, state.valued_at)
        for number, state in states
    ]
    entries = list(index)
    for start in in_pieces(range(0, len(entries), _PIECE), 1):
        piece = [entry for entry in entries[start : start + _PIECE] if entry.segment in segments]
        pieces.append(b"".join(map(_packed, piece)))
        count += len(piece)
    pieces.insert(0, _HEAD.pack(_MAGIC, _FORMAT, identity, now, len(states), count))
    return [*pieces, checksum(pieces)]


def parse_segments(content: bytes, identity: bytes) -> dict[int, SegmentState]:
    """Return the segments of a saved copy, without their entries. Raises BadRecord."""
    return _segments(_body(content, identity))


def parse(
    content: bytes, identity: bytes, piece: int = _PIECE
) -> tuple[dict[int, SegmentState], dict[int, list[IndexEntry]]]:
    """Return the segments and their entries of a saved copy. Raises BadRecord.

    `piece` is how many entries are parsed without a pause.
    """
    body = _body(content, identity)
    segments = _segments(body)
    entries: dict[int, list[IndexEntry]] = {number: [] for number in segments}
    packed = body[_HEAD.size + len(segments) * _SEGMENT.size :]
    try:
        for fields in in_pieces(_ENTRY.iter_unpack(packed), piece):
            entry = _entry(fields)
            if entry.offset + entry.length > segments[entry.segment].end:
                raise BadRecord("a record ends behind its segment")
            entries[entry.segment].append(entry)
    except KeyError:
        raise BadRecord("impossible fields") from None
    return segments, entries


def _packed(entry: IndexEntry) -> bytes:
    return _ENTRY.pack(
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


def _entry(fields: tuple[Any, ...]) -> IndexEntry:
    """Return an entry whose fields are all within their bounds. Raises BadRecord, KeyError."""
    kind, mark, key, parent, start, stop, seconds, segment, offset, length, uses, used_at = fields
    if not (
        start < stop < MAX_TOKEN
        and HEADER_BYTES < length <= MAX_RECORD
        and 0 <= seconds < _MOST  # false for what is no number
        and 0 <= uses < _MOST
        and -_MOST < used_at < _MOST
    ):
        raise BadRecord("impossible fields")
    return IndexEntry(
        tuple.__new__(Address, (_KINDS[kind], key)),  # half the time of Address(…)
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


def _body(content: bytes, identity: bytes) -> memoryview:
    """Return all but the checksum of a copy that can be believed. Raises BadRecord."""
    if len(content) < _HEAD.size + _CHECK_BYTES or len(content) > MAX_SAVED:
        raise BadRecord("no saved index")
    view = memoryview(content)
    body = view[:-_CHECK_BYTES]
    magic, version, owner, _, segment_count, entry_count = _HEAD.unpack_from(body)
    size = saved_bytes(entry_count, segment_count)
    if magic != _MAGIC or version != _FORMAT or owner != identity or len(content) != size:
        raise BadRecord("no saved index of this identity")
    if checksum([body]) != view[-_CHECK_BYTES:]:
        raise BadRecord("the checksum differs")
    return body


def _segments(body: memoryview) -> dict[int, SegmentState]:
    count = _HEAD.unpack_from(body)[4]
    fields = _SEGMENT.iter_unpack(body[_HEAD.size : _HEAD.size + count * _SEGMENT.size])
    segments = {
        number: SegmentState(end, changed, worth, valued_at)
        for number, end, changed, worth, valued_at in fields
        if 0 <= worth < _MOST and -_MOST < valued_at < _MOST
    }
    if len(segments) != count:
        raise BadRecord("impossible fields")
    return segments
