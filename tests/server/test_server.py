"""The end of a node: connections that are left after its drain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mlx_worker.api.middleware.connections import ConnectionLimiter
from mlx_worker.api.middleware.slow_steps import SlowSteps
from mlx_worker.config.schema import ServerConfig
from mlx_worker.server import abort_leftover_connections
from mlx_worker.supervisor.process.pause import PauseDetector

if TYPE_CHECKING:
    from collections.abc import Callable


class Call:
    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self.act = act
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """A loop's clock; calls that are overdue are made when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[Call] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., None], /, *args: Any) -> Call:
        call = Call(self.now + delay, lambda: callback(*args))
        self._calls.append(call)
        return call

    def run(self, seconds: float, *, step: float) -> None:
        """Advance the clock by `seconds`, in which the process runs every `step`."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            due = sorted(
                (call for call in self._calls if call.at <= self.now), key=lambda call: call.at
            )
            self._calls = [call for call in self._calls if call.at > self.now]
            for call in due:
                if not call.is_cancelled:
                    call.act()


class CountingLimiter(ConnectionLimiter):
    def __init__(self) -> None:
        super().__init__(ServerConfig(), SlowSteps())
        self.aborts = 0

    def abort_all(self) -> None:
        self.aborts += 1


async def test_ending_connections_process_stopped_in_the_drain_counts_anew() -> None:
    clock, limiter = Clock(), CountingLimiter()
    pause = PauseDetector(clock, 1.0)
    with abort_leftover_connections(limiter, 30, asyncio.Event(), pause):
        clock.run(20, step=0.5)
        clock.run(100, step=100)
        assert limiter.aborts == 0
        clock.run(29, step=0.5)
        assert limiter.aborts == 0
        clock.run(2, step=0.5)
        assert limiter.aborts == 1


async def test_ending_connections_second_signal_ends_them_soon() -> None:
    clock, limiter, stop = Clock(), CountingLimiter(), asyncio.Event()
    with abort_leftover_connections(limiter, 30, stop, PauseDetector(clock, 1.0)):
        stop.set()
        for _ in range(3):
            await asyncio.sleep(0)
        clock.run(2, step=0.5)
        assert limiter.aborts == 1
