"""Patience and pauses of the process itself, on a clock that the test holds in its hands."""

from __future__ import annotations

import asyncio

import pytest

from mlx_worker.supervisor.process.lifecycle import Timings
from mlx_worker.supervisor.process.pause import PauseDetector, tick_for
from tests.loop_clock import LoopClock
from tests.rounds import rounds


@pytest.fixture
def clock() -> LoopClock:
    return LoopClock()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def detector(clock: LoopClock, pauses: list[float]) -> PauseDetector:
    return PauseDetector(clock, 1.0, pauses.append)


def test_a_timer_calls_once_at_its_time(clock: LoopClock, detector: PauseDetector) -> None:
    called: list[float] = []
    detector.timer(10, lambda: called.append(clock.now))
    clock.run(50)
    assert called == [110]


@pytest.mark.parametrize("before", [0.0, 0.5, 5.0, 9.1, 9.9])
def test_a_timer_that_a_pause_made_overdue_begins_anew(
    clock: LoopClock, detector: PauseDetector, before: float
) -> None:
    """Also where the timer was due before the tick that would have seen the pause."""
    called: list[float] = []
    detector.timer(10, lambda: called.append(clock.now))
    clock.run(before)
    clock.stop(3600)
    resumed = clock.now
    clock.run(9.9)
    assert called == []
    clock.run(1)
    assert called == [pytest.approx(resumed + 10)]


def test_a_timer_that_a_pause_did_not_make_overdue_begins_anew_at_the_pauses_end(
    clock: LoopClock, detector: PauseDetector
) -> None:
    called: list[float] = []
    detector.timer(100, lambda: called.append(clock.now))
    clock.run(50)
    clock.stop(20)
    resumed = clock.now
    clock.run(99.9)
    assert called == []
    clock.run(1)
    assert called == [pytest.approx(resumed + 100)]


def test_twenty_pauses_in_a_row_let_no_timer_end(clock: LoopClock, detector: PauseDetector) -> None:
    called: list[float] = []
    detector.timer(2, lambda: called.append(clock.now))
    for _ in range(20):
        clock.run(0.5)
        clock.stop(20)
    assert called == []
    clock.run(2.5)
    assert len(called) == 1


def test_a_cancelled_timer_does_not_come_back_after_a_pause(
    clock: LoopClock, detector: PauseDetector
) -> None:
    called: list[float] = []
    timer = detector.timer(10, lambda: called.append(clock.now))
    clock.stop(3600)
    timer.cancel()
    clock.run(100)
    assert called == []


def test_an_extended_timer_calls_later(clock: LoopClock, detector: PauseDetector) -> None:
    called: list[float] = []
    timer = detector.timer(10, lambda: called.append(clock.now))
    clock.run(9)
    timer.extend(5)
    clock.run(5.9)
    assert (called, timer.when()) == ([], 115)
    clock.run(1)
    assert called == [115]


def test_reported_pauses_are_counted_before_any_timer_is_called(
    clock: LoopClock, detector: PauseDetector
) -> None:
    clock.run(1)
    clock.now += 4
    assert detector.reported_pauses() == 0
    clock.now += 60
    assert detector.reported_pauses() == 1
    clock.run(10)
    assert detector.reported_pauses() == 1


def test_a_tick_that_is_a_little_late_is_no_pause(
    clock: LoopClock, detector: PauseDetector, pauses: list[float]
) -> None:
    moment = clock.now
    for _ in range(10):
        clock.run(0.5)
        clock.stop(2.4)
    assert detector.after_last_pause(moment) == moment
    assert pauses == []


def test_no_judge_counts_what_was_before_the_end_of_a_pause(
    clock: LoopClock, detector: PauseDetector
) -> None:
    before = clock.now
    clock.run(7)
    clock.now += 60  # the judge asks before any timer was called
    assert detector.after_last_pause(before) == clock.now
    later = clock.now + 1
    clock.run(5)
    assert detector.after_last_pause(later) == later


def test_long_pauses_are_reported_once_and_short_ones_are_not(
    clock: LoopClock, detector: PauseDetector, pauses: list[float]
) -> None:
    clock.stop(4)
    clock.run(10)
    clock.stop(300)
    clock.run(10)
    assert pauses == [pytest.approx(300, abs=1)]


async def test_a_timeout_goes_by_the_same_patience(
    clock: LoopClock, detector: PauseDetector
) -> None:
    async def wait() -> None:
        async with detector.timeout(10):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    clock.run(5)
    clock.stop(3600)
    clock.run(9)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.run(2)
    with pytest.raises(TimeoutError):
        await waiting


async def test_a_timeout_that_is_none_never_ends(clock: LoopClock, detector: PauseDetector) -> None:
    async with detector.timeout(None):
        clock.run(rounds(10_000, 1_000_000, 1_000_000))


async def test_what_ends_in_time_is_not_disturbed(
    clock: LoopClock, detector: PauseDetector
) -> None:
    async with detector.timeout(10):
        clock.run(5)
    clock.run(100)
    await asyncio.sleep(0)


@pytest.mark.parametrize("shortest", ["start", "load", "stall", "stop", "kill"])
def test_ticks_are_short_beside_every_patience(shortest: str) -> None:
    assert tick_for(Timings()) == 0.5
    assert tick_for(Timings(**{shortest: 0.3})) == pytest.approx(0.03)
    assert tick_for(Timings(ping=0.02)) == 0.02
