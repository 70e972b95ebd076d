"""The threads that read records: nothing that computes ever waits for the disk.

Several records are read at once: the calls of the system and the checksum let other threads run.
The bytes that are read and not taken yet are bounded. The threads make no mlx call, and end when
nothing is left to read. [child]
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_worker.kv_disk.files.payload import Payload
    from mlx_worker.kv_disk.files.records import Address
    from mlx_worker.kv_disk.store import DiskStore

log = logging.getLogger(__name__)

THREADS: Final = 4

THREAD_BYTES: Final = 16 << 20
"""Bytes of a read for which a thread is started: a small read is done before a second thread runs,
and each thread takes a core from what computes."""


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """The record at one place of a read; `payload` None: there is no record that is right."""

    place: int
    payload: Payload | None


class DiskRead:
    """The records of one read, in the order in which they are wanted.

    `sizes` are their bytes. Records are read `apart` if they are under suspicion. Everything else
    belongs to the reader.
    """

    def __init__(self, addresses: Sequence[Address], sizes: Sequence[int], *, apart: bool) -> None:
        self.addresses = tuple(addresses)
        self.sizes = tuple(sizes)
        self.apart = apart
        self.limit = len(addresses)
        """Records from this place on are not wanted any more."""
        self.next = 0
        self.under_way = 0
        self.loaded: deque[ReadRecord] = deque()
        self.began = float("inf")
        self.seconds = 0.0
        """From the begin of the first record to the end of the last one so far."""


def _ignore() -> None:
    """Ignore that a record was loaded: nothing sleeps until then."""


class DiskReader:
    """Read records of one store; hold at most `max_bytes` of them, or one that is larger.

    `on_loaded` is an attribute, to be set: it is called, on a thread of the reader, when a record
    can be taken and there was none before.
    """

    def __init__(
        self,
        store: DiskStore,
        max_bytes: int,
        *,
        threads: int = THREADS,
        thread_bytes: int = THREAD_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self.on_loaded: Callable[[], None] = _ignore
        self._max_bytes = max_bytes
        self._max_threads = threads
        self._thread_bytes = thread_bytes
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._reads: deque[DiskRead] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._threads = 0
        self._nbytes = 0
        self._ready = 0

    def read(
        self, addresses: Sequence[Address], sizes: Sequence[int], *, apart: bool = False
    ) -> DiskRead:
        """Start to read records, behind the reads before."""
        read = DiskRead(addresses, sizes, apart=apart)
        with self._changed:
            self._reads.append(read)
            self._start_threads(min(len(addresses), 1 + sum(sizes) // self._thread_bytes))
        return read

    def call(self, function: Callable[[], None]) -> None:
        """Call a function that may wait for the disk, on a thread of the reader."""
        with self._changed:
            self._calls.append(function)
            self._start_threads(1)

    @property
    def has_loaded(self) -> bool:
        """True if a record can be taken."""
        return self._ready > 0

    @property
    def nbytes(self) -> int:
        """Return the bytes that are being read, or were read and not taken."""
        return self._nbytes

    def take(self, read: DiskRead) -> ReadRecord | None:
        """Return the next record that was loaded, None where there is none now."""
        with self._changed:
            if not read.loaded:
                return None
            loaded = read.loaded.popleft()
            self._release(read, loaded)
        return loaded

    def cut(self, read: DiskRead, limit: int) -> None:
        """Drop the records of a read from one place on; at 0, the whole read."""
        with self._changed:
            read.limit = min(read.limit, limit)
            dropped = [loaded for loaded in read.loaded if loaded.place >= read.limit]
            read.loaded = deque(loaded for loaded in read.loaded if loaded.place < read.limit)
            for loaded in dropped:
                self._release(read, loaded)
            if read.next >= read.limit and read in self._reads:
                self._reads.remove(read)
            self._changed.notify_all()

    # --- inside ---

    def _release(self, read: DiskRead, loaded: ReadRecord) -> None:
        self._ready -= 1
        self._nbytes -= read.sizes[loaded.place]
        self._changed.notify_all()

    def _start_threads(self, wanted: int) -> None:
        self._changed.notify_all()
        for _ in range(min(wanted, self._max_threads - self._threads)):
            self._threads += 1
            threading.Thread(target=self._run, name="kv-disk-reader", daemon=True).start()

    def _run(self) -> None:
        while (task := self._next_task()) is not None:
            task()

    def _next_task(self) -> Callable[[], None] | None:
        """Return the next work of a thread; None: the thread has to end."""
        with self._changed:
            while self._reads or self._calls:
                if self._calls:
                    return self._calls.popleft()
                read = self._reads[0]
                size = read.sizes[read.next]
                if not self._nbytes or self._nbytes + size <= self._max_bytes:
                    self._nbytes += size
                    place = read.next
                    read.next += 1
                    read.under_way += 1
                    if read.next >= read.limit:
                        self._reads.popleft()
                    return lambda: self._load(read, place)
                self._changed.wait()
            self._threads -= 1
        return None

    def _load(self, read: DiskRead, place: int) -> None:
        began = self._monotonic()
        payload = None
        try:
            payload = self._store.get(read.addresses[place], apart=read.apart)
        except Exception:  # the prompt is read as if there were no record
            log.exception("a record of KV on disk could not be read")
        with self._changed:
            read.under_way -= 1
            read.began = min(read.began, began)
            read.seconds = self._monotonic() - read.began
            is_wanted = place < read.limit
            is_first = is_wanted and not self._ready
            if is_wanted:
                read.loaded.append(ReadRecord(place, payload))
                self._ready += 1
            else:
                self._nbytes -= read.sizes[place]
                self._changed.notify_all()
        if is_first:
            self.on_loaded()
