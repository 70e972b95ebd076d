"""What a child does about its KV on disk beside the engine: reports, the clearing, the end.

Nothing here is waited for by the thread that owns mlx, but for the end of the process. [child]
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import CacheError
from mlx_worker.wire.messages import RequestFailed
from mlx_worker.wire.prompt_cache import CacheCleared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from mlx_worker.engine.engine import Engine
    from mlx_worker.engine.kv.disk.reading import DiskReading
    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.prompt_cache import DiskState

EXIT_LEFT: Final = 0

LOOK_SECONDS: Final = 10.0
"""Seconds between two looks while nothing is known to change: other processes write too."""

REPORT_SECONDS: Final = 1.0
"""Seconds between two reports at least."""

CLEAR_SECONDS: Final = 30.0
"""Seconds after which a disk that does not delete its records has failed to."""

COPY_SHARE: Final = 0.8
"""Part of the time before the end in which KV is copied; the rest is for the queue and the index.
"""


class DiskReporter:
    """Send `DiskState` after changes, at most once a second, on a thread of its own."""

    def __init__(self, tier: DiskTier, send: Callable[[Iterable[WireMessage]], None]) -> None:
        self._tier = tier
        self._send = send
        self._sent: DiskState | None = None

    def start(self) -> None:
        """Start the thread, which ends with the process."""
        threading.Thread(target=self._run, name="kv-disk-reports", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.report()
            time.sleep(REPORT_SECONDS)
            self._tier.changed.wait(LOOK_SECONDS)

    def report(self) -> None:
        """Send the state if it has changed since the last report."""
        if not self._tier.writer.queued.nbytes:
            self._tier.changed.clear()  # first: a later change is not lost
        state = self._tier.state
        if state != self._sent:
            self._sent = state
            self._send([state])


def clear_in_background(
    tier: DiskTier, id_: int, send: Callable[[Iterable[WireMessage]], None]
) -> threading.Thread:
    """Delete all records of the model, and then send the answer to the `ClearCache` of this id.

    Return the thread, which ends after `CLEAR_SECONDS` at the latest.
    """
    failed = RequestFailed(id_, CacheError.code, "the KV cache on disk could not be cleared")

    def clear() -> None:
        cleared: list[bool] = []
        deletion = threading.Thread(target=lambda: cleared.append(tier.clear()), daemon=True)
        deletion.start()
        deletion.join(CLEAR_SECONDS)
        send([CacheCleared(id_) if cleared == [True] else failed])

    clearing = threading.Thread(target=clear, name="kv-disk-clear", daemon=True)
    clearing.start()
    return clearing


class DiskWaits:
    """Count as progress that a request waits for the disk.

    A disk that hangs is no fault of the process. Each wait has a deadline of its own, so a process
    that hangs meanwhile is found after that deadline.
    """

    def __init__(self) -> None:
        self._count = 0
        self._clearing: threading.Thread | None = None

    def begin_clearing(self, clearing: threading.Thread) -> None:
        """Count until this thread ends, which began after those before."""
        self._clearing = clearing

    def count(self, reading: DiskReading | None) -> int:
        """Return a number that has risen if a request waits; on the thread that answers pings."""
        is_clearing = self._clearing is not None and self._clearing.is_alive()
        if is_clearing or (reading is not None and reading.seconds_left):
            self._count += 1
        return self._count


def end_within(seconds: float) -> None:
    """End the process after `seconds`, whatever its other threads do then."""
    timer = threading.Timer(seconds, os._exit, [EXIT_LEFT])
    timer.daemon = True
    timer.start()


def write_and_leave(engine: Engine, tier: DiskTier, deadline: float) -> NoReturn:
    """Write what is worth keeping, until `deadline` of the tier's clock, and end the process."""
    engine.cancel_all()
    if engine.entry_writer is not None:
        engine.entry_writer.finish((deadline - tier.monotonic()) * COPY_SHARE)
    tier.close(max(0.0, deadline - tier.monotonic()))
    os._exit(EXIT_LEFT)
