"""Segments: files to which records are appended, of at most 64 MiB unless one record is larger.

A segment is believed record by record from its start, until a header cannot be believed: what lies
behind a torn or damaged header is never read. [both]
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import re
from typing import TYPE_CHECKING, Final

from mlx_worker.kv_disk.files.folder import open_file
from mlx_worker.kv_disk.files.payload import BadRecord, Payload
from mlx_worker.kv_disk.files.records import (
    HEADER_BYTES,
    MARK_OFFSET,
    Encoded,
    Mark,
    RecordHeader,
    decode_body,
    decode_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.kv_disk.files.index import IndexEntry

    WriteAt = Callable[[int, list[memoryview], int], int]
    """As `os.pwritev`."""

    ReadAt = Callable[[int, list[memoryview], int], int]
    """As `os.preadv`."""

SEGMENT_BYTES: Final = 64 << 20
MAX_SEGMENTS: Final = 100_000

_MAX_NUMBER: Final = 99_999_999

_MAX_BUFFERS: Final = 1024
"""Buffers that Linux and macOS take in one write."""

_NAME: Final = re.compile(r"[0-9]{8}\.seg")


class Segments:
    """The segment files of one folder."""

    def __init__(
        self,
        folder: int,
        identity: bytes,
        write_at: WriteAt = os.pwritev,
        read_at: ReadAt = os.preadv,
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._write_at = write_at
        self._read_at = read_at

    def sizes(self) -> dict[int, tuple[int, int]]:
        """Return the size and the time of change, in ns, of each segment; the oldest first."""
        found = {}
        with os.scandir(self._folder) as files:
            for file in files:
                if _NAME.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                    status = file.stat(follow_symlinks=False)
                    found[int(file.name[:8])] = (status.st_size, status.st_mtime_ns)
        return dict(sorted(found.items())[:MAX_SEGMENTS])

    def numbers(self) -> list[int]:
        """Return the numbers of all segments, and of what only has a segment's name."""
        names = os.listdir(self._folder)  # noqa: PTH208  (a descriptor)
        return [int(name[:8]) for name in names if _NAME.fullmatch(name)]

    def next_number(self, highest: int) -> int:
        """Return a number behind `highest` that no file has; a lower one where none is left."""
        if highest < _MAX_NUMBER:
            return highest + 1
        taken = {highest, *self.numbers()}
        return next(number for number in itertools.count(1) if number not in taken)

    def scan(self, number: int) -> tuple[list[tuple[int, RecordHeader]], int, int]:
        """Return the headers that can be believed, the end of the last record, and the file's."""
        descriptor = open_file(self._folder, _name(number))
        try:
            size = os.fstat(descriptor).st_size
            headers = list(self._headers(descriptor, size))
        finally:
            os.close(descriptor)
        end = headers[-1][0] + headers[-1][1].length if headers else 0
        return headers, end, size

    def append(self, number: int, offset: int, record: Encoded) -> None:
        """Write a record at the end of a segment; leave nothing behind where that fails.

        Raises BadRecord where another program has cut the segment.
        """
        descriptor = open_file(self._folder, _name(number), os.O_RDWR | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            if size < offset:
                raise BadRecord("the segment is shorter than its records")
            if size > offset:  # a write that failed could not be taken back
                os.ftruncate(descriptor, offset)
            self.write(descriptor, [memoryview(part) for part in record.parts if part], offset)
        except OSError:
            os.ftruncate(descriptor, offset)
            if not offset:
                self.remove(number)
            raise
        finally:
            os.close(descriptor)

    def read(self, number: int, offset: int) -> tuple[RecordHeader, memoryview]:
        """Return the header and everything behind the header. Raises BadRecord."""
        descriptor = open_file(self._folder, _name(number))
        try:
            header = self._header(descriptor, offset)
            if offset + header.length > os.fstat(descriptor).st_size:
                raise BadRecord("the record ends early")
            size = header.length - HEADER_BYTES
            if not size:
                raise BadRecord("the record is empty")
            # Fresh pages of the system: a bytearray is filled with zeros first, which holds up all
            # threads for the time that 32 MiB take.
            view = memoryview(mmap.mmap(-1, size))
            self._read(descriptor, view, offset + HEADER_BYTES)
        finally:
            os.close(descriptor)
        return header, view.toreadonly()

    def read_whole(self, number: int, offset: int) -> Encoded:
        """Return the bytes of a record that is right. Raises BadRecord."""
        header, body = self.read(number, offset)
        decode_body(header, body)
        descriptor = open_file(self._folder, _name(number))
        try:
            head = bytearray(HEADER_BYTES)
            self._read(descriptor, memoryview(head), offset)
            return Encoded((bytes(head), body))
        finally:
            os.close(descriptor)

    def load(self, entry: IndexEntry) -> Payload:
        """Return the payload of the record that the index describes. Raises BadRecord."""
        header, body = self.read(entry.segment, entry.offset)
        if (
            header.address != entry.address
            or header.parent != entry.parent
            or (header.start, header.stop) != (entry.start, entry.stop)
            or header.mark not in (entry.mark, Mark.LIVE)
        ):
            raise BadRecord("another record than the index says")
        return decode_body(header, body)

    def mark(self, number: int, offset: int, mark: Mark) -> None:
        """Change the mark of a record in place."""
        descriptor = open_file(self._folder, _name(number), os.O_RDWR)
        try:
            self.write(descriptor, [memoryview(bytes([mark]))], offset + MARK_OFFSET)
        finally:
            os.close(descriptor)

    def remove(self, number: int) -> None:
        """Remove a segment; reads that are under way go on."""
        os.unlink(_name(number), dir_fd=self._folder)

    def _header(self, descriptor: int, offset: int) -> RecordHeader:
        content = bytearray(HEADER_BYTES)
        self._read(descriptor, memoryview(content), offset)
        return decode_header(bytes(content), self._identity)

    def _read(self, descriptor: int, view: memoryview, offset: int) -> None:
        """Fill the view. Raises BadRecord where the file ends, or the disk cannot read a place.

        A place that cannot be read is damage of one record, not of the disk.
        """
        done = 0
        while done < len(view):
            try:
                count = self._read_at(descriptor, [view[done:]], offset + done)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                raise BadRecord("the disk cannot read the record") from error
            if count <= 0:
                raise BadRecord("the record ends early")
            done += count

    def write(self, descriptor: int, buffers: list[memoryview], offset: int) -> None:
        """Write all buffers. Raises OSError where the disk takes no more bytes."""
        while buffers:
            count = self._write_at(descriptor, buffers[:_MAX_BUFFERS], offset)
            if count <= 0:
                raise OSError(errno.EIO, "the disk takes no bytes")
            offset += count
            while buffers and count >= len(buffers[0]):
                count -= len(buffers.pop(0))
            if count:
                buffers[0] = buffers[0][count:]

    def _headers(self, descriptor: int, size: int) -> Iterator[tuple[int, RecordHeader]]:
        offset = 0
        while offset + HEADER_BYTES <= size:
            try:
                header = self._header(descriptor, offset)
            except BadRecord:
                return
            if offset + header.length > size:
                return
            yield offset, header
            offset += header.length


def _name(number: int) -> str:
    return f"{number:08d}.seg"
