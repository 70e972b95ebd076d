"""How late the event loop is: whatever blocks it holds every stream up. [front]"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

from mlx_worker.api.metrics.slow_steps import OTHER, SlowSteps
from mlx_worker.histogram import LAG, Histogram

if TYPE_CHECKING:
    from types import TracebackType

INTERVAL: Final = 0.5
"""Seconds."""


class EventLoopLagMonitor:
    """Asks to be called and looks how much later that was, in seconds.

    What made it late is known to `held` where it was a request; else it is counted there as other
    work.
    """

    def __init__(self, slow_steps: SlowSteps) -> None:
        self.histogram = Histogram(LAG)
        self.slow_steps = slow_steps
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._counted_before = 0

    def __enter__(self) -> Self:
        self._arm()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._due = self.slow_steps.clock() + INTERVAL
        self._counted_before = self.slow_steps.counts.total()
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self.measure)

    def measure(self) -> None:
        """See how late it is. Called by the loop."""
        # A loop's clock is coarser than ours: it may call a little early.
        lateness = max(0.0, self.slow_steps.clock() - self._due)
        self.histogram.observe(lateness)
        if self.slow_steps.counts.total() == self._counted_before:
            self.slow_steps.record(OTHER, lateness)
        self._arm()
