"""The clock of an event loop, held in the test's hands: it runs, or the process stands still."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Call:
    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class LoopClock:
    """A loop's clock: timers are called in the order of their deadlines, late ones too."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now
        self._calls: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., None], /, *args: Any) -> Call:
        call = Call(lambda: callback(*args))
        heapq.heappush(self._calls, (self.now + delay, next(self._numbers), call))
        return call

    def run(self, seconds: float) -> None:
        """Let this number of seconds pass, each call made at its time."""
        end = self.now + seconds
        while self._calls and self._calls[0][0] <= end:
            self.now = max(self.now, self._calls[0][0])
            self._call()
        self.now = end

    def stop(self, seconds: float) -> None:
        """Let seconds pass in which the process does not run; then all calls are overdue."""
        self.now += seconds
        due = [call for call in self._calls if call[0] <= self.now]
        for _ in due:
            self._call()

    def _call(self) -> None:
        _, _, call = heapq.heappop(self._calls)
        if not call.is_cancelled:
            call.act()
