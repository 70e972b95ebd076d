"""Whether a process that serves a model still makes progress.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mlx_worker.wire.messages import Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.supervisor.process.connection import ChildConnection
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.pause import PauseDetector


class Liveness:
    """Pings a process, and judges it by its progress: open requests without any are a stall.

    An idle process that answers no ping is left alone. `on_stall` is called once, with the reason.
    """

    def __init__(
        self,
        connection: ChildConnection,
        timings: Timings,
        pause: PauseDetector,
        on_stall: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._timings = timings
        self._pause = pause
        self._on_stall = on_stall
        self._loop = asyncio.get_running_loop()
        self._pings = 0
        self._timer: asyncio.TimerHandle | None = None
        self._check()

    def on_pong(self, before: Pong, now: Pong) -> None:
        """Count requests that were prepared between two pongs as progress."""
        if now.prepared > before.prepared:
            self._connection.last_progress = self._loop.time()

    def close(self) -> None:
        """Send no more pings, and report no stall."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        silent = self._loop.time() - self._pause.after_last_pause(self._connection.last_progress)
        if self._connection.open_ids and silent > self._timings.stall:
            requests = self._connection.open_ids
            self._on_stall(f"{requests} requests in hand and no progress for {silent:.1f} s")
            return
        self._pings += 1
        self._connection.send(Ping(self._pings))
        self._timer = self._loop.call_later(self._timings.ping, self._check)
