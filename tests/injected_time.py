"""An event loop whose clock a test holds: a minute of waiting takes a few milliseconds.

The clock stands still while anything in the test's process can run, and jumps to the next timer
when nothing can. So everything that asks the loop for the time (the product, its clients, the fake
worker in memory) lives in the same injected time. Before `inject_time` the clock is the real one:
what a thread does, such as the inspection of a folder, takes real time.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from selectors import SelectorKey

SETTLING: Final = 0.0001
"""Real seconds in which nothing may arrive on any socket before the clock jumps."""

TICKS: Final = 2**20
"""The clock's ticks a second: a power of two, so that no difference of two times is rounded."""


class _Clock(selectors.SelectSelector):
    """Waits for sockets; where a loop would wait for a timer, moves the time instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.is_injected = False

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, Any]]:
        if not self.is_injected:
            began = time.monotonic()
            events = super().select(timeout)
            self._pass(time.monotonic() - began)
            return events
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        if not (events := super().select(SETTLING)):
            self._pass(timeout)
        return events

    def _pass(self, seconds: float) -> None:
        """Let time pass up to the next tick: never short of the timer that the loop waits for."""
        self.now = math.ceil((self.now + seconds) * TICKS) / TICKS


class InjectedTimeLoop(asyncio.SelectorEventLoop):
    """A loop for tests that never wait for a clock on the wall."""

    def __init__(self) -> None:
        self._injected_clock = _Clock()
        super().__init__(self._injected_clock)

    def time(self) -> float:
        """Return seconds on the test's clock."""
        return self._injected_clock.now

    def inject_time(self) -> None:
        """Let time pass only where nothing else can happen, from now on."""
        self._injected_clock.is_injected = True


def inject_time() -> None:
    """Let time pass on the running loop only where nothing else can happen."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, InjectedTimeLoop)
    loop.inject_time()


def now() -> float:
    """Return seconds on the clock of the running loop."""
    return asyncio.get_running_loop().time()
