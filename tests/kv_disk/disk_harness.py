"""A store in a folder of its own, with time, free bytes and failures of the disk in hand."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from mlx_worker.kv_disk.files.keys import KvIdentity, Link, chain
from mlx_worker.kv_disk.files.payload import ArrayBytes, Dtype, LayerBytes, LayerFamily, Payload
from mlx_worker.kv_disk.files.records import Address, Kind, Record
from mlx_worker.kv_disk.space import Limits
from mlx_worker.kv_disk.store import DiskStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20

IDENTITY = KvIdentity("weights", "0.32.4", "0.32.2", ("KVCache",), "bfloat16")
OTHER = KvIdentity("other weights", "0.32.4", "0.32.2", ("KVCache",), "bfloat16")


def payload_of(key: bytes, nbytes: int = 64) -> Payload:
    """Bytes that follow from the key: what a key must give back."""
    data = (key * (nbytes // len(key) + 1))[:nbytes]
    array = ArrayBytes(Dtype.UINT8, (1, 1, 1, nbytes), data)
    return (LayerBytes(LayerFamily.FULL, (), (array, None)), LayerBytes(LayerFamily.NONE))


def record_of(
    link: Link, *, kind: Kind = Kind.DELTA, nbytes: int = 64, seconds: float = 1.0
) -> Record:
    address = Address(kind, link.key)
    payload = payload_of(link.key, nbytes)
    return Record(address, link.parent, link.start, link.stop, seconds, payload)


def single(number: int, *, nbytes: int = 64, seconds: float = 1.0) -> Record:
    """A record of one short chunk that no other prompt begins with."""
    (link,) = chain(IDENTITY, [number, 1, 2])
    return record_of(link, nbytes=nbytes, seconds=seconds)


def is_right(record: Record, found: Payload | None) -> bool:
    """True if what was found is what was stored, to the byte."""
    return found is not None and same(found, record.payload)


def same(one: Payload, other: Payload) -> bool:
    return [_plain(layer) for layer in one] == [_plain(layer) for layer in other]


def _plain(layer: LayerBytes) -> object:
    arrays = [
        None if array is None else (array.dtype, array.shape, bytes(array.data))
        for array in layer.arrays
    ]
    return layer.family, layer.numbers, arrays


def bytes_below(folder: Path) -> int:
    return sum(
        os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118  (called at every write)
        for place, _, names in os.walk(folder)
        for name in names
    )


class Disk:
    """A folder, and everything that the store is told of the world."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = 1_700_000_000.0
        self.monotonic = 0.0
        self.volume = 1 << 40
        self.foreign_bytes = 0
        self.error: int | None = None
        self.most_bytes = 1 << 40
        self.torn_bytes: int | None = None
        """What a write that fails leaves on the disk; half of its bytes without a number."""
        self.lines: list[str] = []
        self.before_write: Callable[[int], object] = int
        self.unreadable = range(0)
        """Offsets, in any segment, that the disk cannot read."""

    def open(
        self,
        identity: KvIdentity = IDENTITY,
        *,
        capacity: int = 16 * MIB,
        writes_per_day: int = 1 << 40,
        free_min: int = 0,
        segment_bytes: int = MIB,
    ) -> DiskStore:
        return DiskStore(
            self.folder,
            identity,
            Limits(capacity, writes_per_day, free_min, segment_bytes),
            report=self.lines.append,
            now=lambda: self.time,
            monotonic=lambda: self.monotonic,
            free_bytes=lambda _: self._free(free_min),
            write_at=self._write,
            read_at=self._read,
        )

    @property
    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("*/*.seg"))

    def lose_index(self) -> None:
        for path in self.folder.glob("*/index"):
            path.unlink()

    def _free(self, free_min: int) -> int:
        if not free_min:
            return self.volume
        return self.volume - self.foreign_bytes - bytes_below(self.folder)

    def _read(self, descriptor: int, parts: list[memoryview], offset: int) -> int:
        end = offset + sum(map(len, parts))
        if self.unreadable.start < end and offset < self.unreadable.stop:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.preadv(descriptor, parts, offset)

    def _write(self, descriptor: int, parts: list[memoryview], offset: int) -> int:
        data = b"".join(parts)
        self.before_write(len(data))
        if self.error is not None:
            torn = len(data) // 2 if self.torn_bytes is None else self.torn_bytes
            os.pwrite(descriptor, data[:torn], offset)
            raise OSError(self.error, os.strerror(self.error))
        if len(data) > self.most_bytes:
            return os.pwrite(descriptor, data[: self.most_bytes], offset)
        return os.pwritev(descriptor, parts, offset)
