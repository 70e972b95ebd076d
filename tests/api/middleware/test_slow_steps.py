"""Which path held the event loop: by a clock of the test's own."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mlx_worker.api.metrics.loop_lag import INTERVAL, EventLoopLagMonitor
from mlx_worker.api.middleware.slow_steps import (
    EVENT_INTERVAL,
    NO_PATH,
    OTHER,
    STEP_BUDGET,
    SlowSteps,
)
from mlx_worker.supervisor.process.pause import PauseDetector
from tests.loop_clock import LoopClock
from tests.supervisor_harness import soon


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slow_steps(clock: Clock) -> SlowSteps:
    return SlowSteps(clock)


async def ask(slow_steps: SlowSteps, handler: Any, path: str = "/v1/models/the-secret-name") -> int:
    app = web.Application(middlewares=[slow_steps.middleware])
    app.router.add_get("/{v1:(?:v1/)*}models/{id:.+}", handler)
    async with TestClient(TestServer(app)) as client:
        response = await soon(client.get(path))
        return response.status


async def test_a_step_over_the_budget_is_counted_by_its_route(
    slow_steps: SlowSteps, clock: Clock
) -> None:
    reported: list[tuple[str, int]] = []
    slow_steps.on_slow_step = lambda path, seconds: reported.append((path, round(seconds * 1000)))

    async def handler(_: web.Request) -> web.Response:
        clock.now += STEP_BUDGET + 1
        return web.Response()

    assert await ask(slow_steps, handler) == 200
    assert slow_steps.counts == {"/models/{id}": 1}
    assert reported == [("/models/{id}", round((STEP_BUDGET + 1) * 1000))]


async def test_steps_within_the_budget_are_not_added_up(
    slow_steps: SlowSteps, clock: Clock
) -> None:
    async def handler(_: web.Request) -> web.Response:
        for _step in range(100):
            clock.now += STEP_BUDGET
            await asyncio.sleep(0)
        return web.Response()

    assert await ask(slow_steps, handler) == 200
    assert not slow_steps.counts


async def test_slow_steps_waiting_is_not_counted(slow_steps: SlowSteps, clock: Clock) -> None:
    async def handler(_: web.Request) -> web.Response:
        asyncio.get_running_loop().call_soon(setattr, clock, "now", 2000.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return web.Response()

    assert await ask(slow_steps, handler) == 200
    assert not slow_steps.counts


async def test_a_path_that_is_not_there_has_no_name_of_its_own(
    slow_steps: SlowSteps, clock: Clock
) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError

    paths: list[str] = []

    class Listed(SlowSteps):
        def record(self, path: str, seconds: float) -> None:
            paths.append(path)
            super().record(path, seconds)

    assert await ask(Listed(clock), handler, "/nothing/of/the/kind") == 404
    assert set(paths) == {NO_PATH}


async def test_an_error_and_a_cancel_pass_through(slow_steps: SlowSteps, clock: Clock) -> None:
    async def failing(_: web.Request) -> web.Response:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        except TimeoutError:
            raise web.HTTPConflict from None
        raise AssertionError

    assert await ask(slow_steps, failing) == 409


def test_a_path_is_told_of_once_in_a_while_and_counted_always(
    slow_steps: SlowSteps, clock: Clock
) -> None:
    reported: list[str] = []
    slow_steps.on_slow_step = lambda path, _: reported.append(path)
    for _ in range(3):
        slow_steps.record("/a", 1.0)
        slow_steps.record("/b", 1.0)
    assert reported == ["/a", "/b"]
    clock.now += EVENT_INTERVAL
    slow_steps.record("/a", 1.0)
    assert reported == ["/a", "/b", "/a"]
    assert slow_steps.counts == {"/a": 4, "/b": 3}


async def test_loop_lag_without_a_slow_request_is_counted_as_other(
    slow_steps: SlowSteps, clock: Clock
) -> None:
    with EventLoopLagMonitor(slow_steps, PauseDetector(LoopClock(), 1.0)) as lag:
        clock.now += INTERVAL + STEP_BUDGET / 2
        lag.measure()
        assert not slow_steps.counts
        clock.now += INTERVAL + 1
        lag.measure()
        assert slow_steps.counts == {OTHER: 1}
        clock.now += INTERVAL + 1
        slow_steps.record("/a", 1.0)
        lag.measure()
        assert slow_steps.counts == {OTHER: 1, "/a": 1}


async def test_loop_lag_does_not_count_time_in_which_the_process_did_not_run(
    slow_steps: SlowSteps, clock: Clock
) -> None:
    of_loop = LoopClock()
    with EventLoopLagMonitor(slow_steps, PauseDetector(of_loop, 1.0)) as lag:
        clock.now += 3600
        of_loop.now += 3600
        lag.measure()
        assert (slow_steps.counts, lag.histogram.count) == ({}, 0)
        clock.now += INTERVAL + 1
        lag.measure()
        assert (slow_steps.counts, lag.histogram.count) == ({OTHER: 1}, 1)
