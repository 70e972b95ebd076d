"""How late the event loop is: whatever blocks it holds every stream up. [front]"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Self

from mlx_worker.histogram import LAG, Histogram

if TYPE_CHECKING:
    from types import TracebackType

EVERY: Final = 0.5
"""Seconds."""


class Lag:
    """Asks to be called and looks how much later that was, in seconds."""

    def __init__(self) -> None:
        self.seen = Histogram(LAG)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

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
        self._due = time.perf_counter() + EVERY
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def _look(self) -> None:
        # A loop's clock is coarser than ours: it may call a little early.
        self.seen.see(max(0.0, time.perf_counter() - self._due))
        self._arm()
