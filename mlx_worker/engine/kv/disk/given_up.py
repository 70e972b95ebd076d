"""Reads that were given up: nothing is read before the disk has answered.

Each prompt would wait in vain for a disk that hangs. All calls belong to the thread that owns mlx.
[child]
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_worker.kv_disk.reader import DiskRead, DiskReader


class GivenUpReads:
    """The reads of one reader that were given up."""

    def __init__(self, reader: DiskReader) -> None:
        self._reader = reader
        self._reads: list[DiskRead] = []
        self._has_answered = threading.Event()
        """Set while the reader's threads do what they are asked, as far as is known."""
        self._has_answered.set()

    @property
    def hang(self) -> bool:
        """True if a read that was given up is still under way, or no thread is free to read."""
        self._reads = [read for read in self._reads if read.under_way]
        return bool(self._reads) or not self._has_answered.is_set()

    def add(self, read: DiskRead) -> None:
        """Add a read, and ask the threads to answer."""
        self._reads.append(read)
        if self._has_answered.is_set():
            self._has_answered.clear()
            self._reader.call(self._has_answered.set)
