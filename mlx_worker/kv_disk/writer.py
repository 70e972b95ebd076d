"""The thread that writes records: nothing that computes ever waits for the disk.

The queue is bounded in bytes; where a new record has no room, the oldest records are dropped. The
thread makes no mlx call. [child]
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.kv_disk.files.payload import nbytes_of
from mlx_worker.kv_disk.reports import StoreOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.kv_disk.files.records import Record
    from mlx_worker.kv_disk.store import DiskStore

log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 512 << 20
MAINTAIN_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Queued:
    """What waits to be written, and what was dropped since the start."""

    records: int
    nbytes: int
    dropped: int


class DiskWriter:
    """Write records to a store, in the order in which they were added."""

    def __init__(
        self,
        store: DiskStore,
        max_bytes: int = QUEUE_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._queue: deque[tuple[Record, bool, int]] = deque()
        self._nbytes = 0
        self._dropped = 0
        self._is_busy = False
        self._done = 0
        """Tasks of the thread that have ended."""
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kv-disk-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, record: Record, *, essential: bool = False) -> None:
        """Add a record to the queue; never wait."""
        size = nbytes_of(record.payload)
        with self._changed:
            if size > self._max_bytes or self._is_closing:
                self._dropped += 1
                return
            while self._queue and self._nbytes + size > self._max_bytes:
                self._nbytes -= self._queue.popleft()[2]
                self._dropped += 1
            if self._nbytes + size > self._max_bytes:  # a large record is being written
                self._dropped += 1
                return
            self._queue.append((record, essential, size))
            self._nbytes += size
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait until all records are written; False if that takes longer than `seconds`."""
        deadline = self._monotonic() + seconds
        with self._changed:
            while self._queue or self._is_busy:
                left = deadline - self._monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return not (self._queue or self._is_busy)
        return True

    def close(self, seconds: float) -> bool:
        """Write what can be written within `seconds`, drop the rest, and end the thread.

        False if the thread is still in a write then: the thread is a daemon and is left behind.
        """
        deadline = self._monotonic() + seconds
        self.drain(seconds)
        with self._changed:
            self._is_closing = True
            self._dropped += len(self._queue)
            self._nbytes -= sum(size for _, _, size in self._queue)
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline - self._monotonic()))
        return not self._thread.is_alive()

    def clear(self) -> None:
        """Forget all records that wait, and wait for the record that is being written.

        What was added before the call is on disk then, or never will be.
        """
        with self._changed:
            self._nbytes -= sum(size for _, _, size in self._queue)
            self._queue.clear()
            self._changed.notify_all()
            done = self._done
            self._changed.wait_for(lambda: not self._is_busy or self._done > done)

    @property
    def queued(self) -> Queued:
        """Return the state of the queue, on any thread."""
        with self._changed:
            return Queued(len(self._queue), self._nbytes, self._dropped)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._done += self._is_busy
                self._is_busy = False
                self._changed.notify_all()
                if not self._queue and not self._is_closing:
                    self._changed.wait(MAINTAIN_SECONDS)
                if self._is_closing:
                    return
                self._is_busy = True
                # The bytes of a record that is being written still count.
                item = self._queue.popleft() if self._queue else None
            is_lost = False
            try:
                if item is None:
                    self._store.maintain()
                else:
                    is_lost = self._store.put(item[0], essential=item[1]) is StoreOutcome.BUSY
            except Exception:  # a defect costs one record, not all that come after
                log.exception("KV could not be written to disk")
                is_lost = item is not None
            if item is not None:
                with self._changed:
                    self._nbytes -= item[2]
                    self._dropped += is_lost
