"""Detects that the node did not run for a while, and starts all deadlines anew then.

After a stopped tree of processes, a machine that slept or a debugger, the clock of the front jumps,
although the children did not run either. A deadline that only compares two readings of the clock
would kill healthy processes. The detector ticks; if the next tick is late by two whole ticks, there
was a pause, and no deadline counts the time before its end. After a pause the event loop calls all
overdue timers before it reads from a child, in the order of their deadlines. So each timer asks the
detector itself, and none depends on the tick being called first.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mlx_worker.supervisor.process.lifecycle import Timings

TICKS_OF_A_PAUSE: Final = 3
"""Length of a gap between ticks, in ticks, that makes a pause: the next tick, late by two more."""

REPORTED_FROM: Final = 5.0
"""Seconds of a pause that is reported; a busy machine has shorter ones too."""

TOO_EARLY: Final = 0.01
"""Seconds that a call comes early at most: the loop's clock may stand still for some of it."""

TICKS_PER_DEADLINE: Final = 10
"""Ticks within the shortest deadline: undetected pauses take less than a third of it."""


def tick_for(timings: Timings) -> float:
    """Return the seconds between two ticks that suit these deadlines."""
    deadlines = (timings.start, timings.load, timings.stall, timings.stop, timings.kill)
    return min(timings.ping, min(deadlines) / TICKS_PER_DEADLINE)


class Handle(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Do not make the call."""


class Clockwork(Protocol):
    """The part of an event loop that the detector needs."""

    def time(self) -> float:
        """Return seconds on the loop's clock."""

    def call_later(self, delay: float, callback: Callable[..., None], /, *args: Any) -> Handle:
        """Call back once after `delay` seconds."""


class PauseDetector:
    """Compares each reading of the clock with the one before; ticks every `every` seconds.

    `on_pause` is called with the seconds of each pause that is long enough to be reported.
    """

    def __init__(
        self, loop: Clockwork, every: float, on_pause: Callable[[float], None] = lambda _: None
    ) -> None:
        self._loop = loop
        self._every = every
        self._on_pause = on_pause
        self._read_at = self._resumed_at = loop.time()
        self._reported = 0
        self._ticks = loop.call_later(every, self._tick)

    def after_last_pause(self, moment: float) -> float:
        """Return a moment, or the end of the last pause where that is later."""
        self._detect_pause()
        return max(moment, self._resumed_at)

    def timer(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back after `seconds` without a pause in them."""
        return Timer(self, self._loop, seconds, lambda: callback(*args))

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncIterator[Timer | None]:
        """End the block by TimeoutError after `seconds` without a pause in them.

        The block gets the timer, which can be extended; None: the block may take any time.
        """
        async with asyncio.timeout(None) as scope:
            if seconds is None:
                yield None
                return
            timer = self.timer(seconds, lambda: scope.reschedule(0))
            try:
                yield timer
            finally:
                timer.cancel()

    def reported_pauses(self) -> int:
        """Return the number of pauses so far that were long enough to be reported."""
        self._detect_pause()
        return self._reported

    def close(self) -> None:
        """End the ticks."""
        self._ticks.cancel()

    def _tick(self) -> None:
        self._detect_pause()
        self._ticks = self._loop.call_later(self._every, self._tick)

    def _detect_pause(self) -> None:
        now = self._loop.time()
        gap, self._read_at = now - self._read_at, now
        if gap > TICKS_OF_A_PAUSE * self._every:
            self._resumed_at = now
            if gap > REPORTED_FROM:
                self._reported += 1
                self._on_pause(gap)


class Timer:
    """One call after a time that begins anew with the end of each pause."""

    def __init__(
        self, pause: PauseDetector, loop: Clockwork, seconds: float, callback: Callable[[], object]
    ) -> None:
        self._pause = pause
        self._loop = loop
        self._seconds = seconds
        self._callback = callback
        self._since = loop.time()
        self._handle = loop.call_later(seconds, self._due)

    def when(self) -> float:
        """Return when the call is due on the loop's clock, if no pause comes before."""
        return self._since + self._seconds

    def extend(self, seconds: float) -> None:
        """Make the call later."""
        self._seconds += seconds

    def cancel(self) -> None:
        """Do not make the call."""
        self._handle.cancel()

    def _due(self) -> None:
        self._since = self._pause.after_last_pause(self._since)
        rest = self.when() - self._loop.time()
        if rest > TOO_EARLY:
            self._handle = self._loop.call_later(rest, self._due)
        else:
            self._callback()
