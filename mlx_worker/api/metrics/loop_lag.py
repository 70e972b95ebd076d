"""How late the event loop is: whatever blocks it holds every stream up. [front]"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

from mlx_worker.api.metrics.slow_steps import OTHER, Held
from mlx_worker.histogram import LAG, Histogram

if TYPE_CHECKING:
    from types import TracebackType

EVERY: Final = 0.5
"""Seconds."""


class Lag:
    """Asks to be called and looks how much later that was, in seconds.

    What made it late is known to `held` where it was a request; else it is counted there as other
    work.
    """

    def __init__(self, held: Held) -> None:
        self.seen = Histogram(LAG)
        self.held = held
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._known = 0

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
        self._due = self.held.clock() + EVERY
        self._known = self.held.counts.total()
        self._timer = asyncio.get_running_loop().call_later(EVERY, self.look)

    def look(self) -> None:
        """See how late it is. Called by the loop."""
        # A loop's clock is coarser than ours: it may call a little early.
        late = max(0.0, self.held.clock() - self._due)
        self.seen.see(late)
        if self.held.counts.total() == self._known:
            self.held.see(OTHER, late)
        self._arm()
