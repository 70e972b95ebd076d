"""Measure how late the front's event loop runs what is due: whatever blocks it delays every stream.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

from mlx_worker.api.middleware.slow_steps import OTHER, SlowSteps
from mlx_worker.histogram import LAG, Histogram

if TYPE_CHECKING:
    from types import TracebackType

    from mlx_worker.supervisor.process.pause import PauseDetector

INTERVAL: Final = 0.5
"""Seconds between two measurements."""


class EventLoopLagMonitor:
    """Schedules a call again and again, and measures how many seconds late each call is.

    A call that is late because of a request is known to `slow_steps`. Every other late call is
    counted there as other work. A call that is late because this process did not run at all is not
    counted: the pause is an event of its own.
    """

    def __init__(self, slow_steps: SlowSteps, pause: PauseDetector) -> None:
        self.histogram = Histogram(LAG)
        self.slow_steps = slow_steps
        self._pause = pause
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._pauses_before = 0
        self._slow_steps_before = 0

    def __enter__(self) -> Self:
        self._schedule()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._due = self.slow_steps.clock() + INTERVAL
        self._slow_steps_before = self.slow_steps.counts.total()
        self._pauses_before = self._pause.reported_pauses()
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self.measure)

    def measure(self) -> None:
        """Record how late this call is, and schedule the next one. Called by the loop."""
        if self._pause.reported_pauses() == self._pauses_before:
            # The loop's clock is coarser than this one: the loop may call a little early.
            self._record(max(0.0, self.slow_steps.clock() - self._due))
        self._schedule()

    def _record(self, lateness: float) -> None:
        self.histogram.observe(lateness)
        if self.slow_steps.counts.total() == self._slow_steps_before:
            self.slow_steps.record(OTHER, lateness)
