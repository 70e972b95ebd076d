"""One record: a fixed header, a description and the arrays' bytes.

The header has a checksum of its own and the checksum of everything behind the header. One byte
behind the header's checksum is the record's mark, the only byte that changes after a record was
written: a record is set aside or deleted in place.

The checksum of the body is xxh3: a checksum finds damage, and does not keep out a person who can
write to the folder. Its `update` computes 64 MiB in 10 ms and lets other threads run meanwhile.
Pure. [both]
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import xxhash

from mlx_worker.kv_disk.files.keys import IDENTITY_BYTES, KEY_BYTES
from mlx_worker.kv_disk.files.payload import (
    MAX_DATA,
    MAX_DESCRIPTION,
    BadRecord,
    Payload,
    attach,
    serialize,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = 1
MAGIC: Final = b"MLXWKV\r\n"

_FIELDS: Final = struct.Struct(f"<8sHBx{IDENTITY_BYTES}s{KEY_BYTES}s{KEY_BYTES}sIIIII16s")
_CHECK_BYTES: Final = 8
MARK_OFFSET: Final = _FIELDS.size + _CHECK_BYTES
HEADER_BYTES: Final = 160
MAX_RECORD: Final = HEADER_BYTES + MAX_DESCRIPTION + MAX_DATA

MAX_TOKEN: Final = 1 << 31


class Kind(IntEnum):
    """What a record holds. The numbers are part of the format."""

    DELTA = 1
    """Keys and values of one chunk, of the layers that can be cut."""

    WINDOW = 2
    """The last window of sliding-window layers, at the end of an entry."""

    STATE = 3
    """The state of recurrent layers, at the end of an entry."""

    TURN = 4
    """The tokens that an answer was sampled as. No KV: found by its own content, in no chain."""


KV_KINDS: Final = frozenset({Kind.DELTA, Kind.WINDOW, Kind.STATE})
"""The kinds of records that KV is made of."""


class Mark(IntEnum):
    """Whether a record may be used. Any other byte means deleted."""

    LIVE = 0
    SUSPECT = 1
    """A child died shortly after reading the record: to be tried apart from others."""

    TRIED = 2
    """A suspect that is being tried, or was when a child died."""

    DELETED = 0xFF


class Address(NamedTuple):
    """What a record is found by."""

    kind: Kind
    key: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """KV to be stored. `seconds` is the time that reading these tokens took."""

    address: Address
    parent: bytes
    start: int
    stop: int
    seconds: float
    payload: Payload


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The header of a record on disk. `length` counts the header too."""

    address: Address
    parent: bytes
    start: int
    stop: int
    seconds: float
    description_bytes: int
    data_bytes: int
    body_check: bytes
    mark: Mark

    @property
    def length(self) -> int:
        """Return the bytes of the whole record."""
        return HEADER_BYTES + self.description_bytes + self.data_bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of a record, in the order of `parts`: the arrays are not copied."""

    parts: tuple[bytes | memoryview, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


def checksum(parts: Iterable[bytes | memoryview]) -> bytes:
    """Return the checksum of all parts, one after the other."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.digest()


def encode(identity: bytes, record: Record) -> Encoded:
    """Return the bytes of a record. Raises BadRecord for what no file may hold."""
    if not 0 <= record.start < record.stop < MAX_TOKEN:
        raise BadRecord("the token range is impossible")
    description, data = serialize(record.payload)
    fields = _FIELDS.pack(
        MAGIC,
        FORMAT,
        record.address.kind,
        identity,
        record.address.key,
        record.parent,
        record.start,
        record.stop,
        min(0xFFFFFFFF, max(0, round(record.seconds * 1e6))),
        len(description),
        sum(map(len, data)),
        checksum([description, *data]),
    )
    header = (fields + _header_check(fields)).ljust(HEADER_BYTES, b"\0")
    return Encoded((header + description, *data))


def decode_header(header: bytes, identity: bytes) -> RecordHeader:
    """Return a header that was written by this version for this identity. Raises BadRecord."""
    if len(header) != HEADER_BYTES:
        raise BadRecord("the header ends early")
    fields = header[: _FIELDS.size]
    magic, version, kind, owner, key, parent, start, stop, micros, described, held, check = (
        _FIELDS.unpack(fields)
    )
    if magic != MAGIC or header[_FIELDS.size : MARK_OFFSET] != _header_check(fields):
        raise BadRecord("no header")
    if version != FORMAT:
        raise BadRecord(f"format {version} is not {FORMAT}")
    if owner != identity:
        raise BadRecord("of another identity")
    if kind not in _KINDS or not 0 <= start < stop < MAX_TOKEN:
        raise BadRecord("impossible fields")
    if described > MAX_DESCRIPTION or held > MAX_DATA:
        raise BadRecord("the record is larger than any")
    mark = header[MARK_OFFSET]
    return RecordHeader(
        Address(Kind(kind), key),
        parent,
        start,
        stop,
        micros / 1e6,
        described,
        held,
        check,
        Mark(mark) if mark in _MARKS else Mark.DELETED,
    )


def decode_body(header: RecordHeader, body: memoryview) -> Payload:
    """Return the payload behind a header. Raises BadRecord."""
    if len(body) != header.description_bytes + header.data_bytes:
        raise BadRecord("the record ends early")
    if checksum([body]) != header.body_check:
        raise BadRecord("the checksum differs")
    return attach(bytes(body[: header.description_bytes]), body[header.description_bytes :])


_KINDS: Final = frozenset(Kind)
_MARKS: Final = frozenset(Mark)


def _header_check(fields: bytes) -> bytes:
    return hashlib.blake2b(fields, digest_size=_CHECK_BYTES).digest()
