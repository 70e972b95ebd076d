"""Which path held the event loop: by a clock of the test's own."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mlx_worker.api.metrics.loop_lag import EVERY, Lag
from mlx_worker.api.metrics.slow_steps import BUDGET, NO_PATH, OTHER, QUIET, Held
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
def held(clock: Clock) -> Held:
    return Held(clock)


async def ask(held: Held, handler: Any, path: str = "/v1/models/the-secret-name") -> int:
    app = web.Application(middlewares=[held.watch])
    app.router.add_get("/{v1:(?:v1/)*}models/{id:.+}", handler)
    async with TestClient(TestServer(app)) as client:
        response = await soon(client.get(path))
        return response.status


async def test_a_step_over_the_budget_is_counted_by_its_route(held: Held, clock: Clock) -> None:
    told: list[tuple[str, int]] = []
    held.tell = lambda path, seconds: told.append((path, round(seconds * 1000)))

    async def handler(_: web.Request) -> web.Response:
        clock.now += BUDGET + 1
        return web.Response()

    assert await ask(held, handler) == 200
    assert held.counts == {"/models/{id}": 1}
    assert told == [("/models/{id}", round((BUDGET + 1) * 1000))]


async def test_steps_within_the_budget_are_not_added_up(held: Held, clock: Clock) -> None:
    async def handler(_: web.Request) -> web.Response:
        for _step in range(100):
            clock.now += BUDGET
            await asyncio.sleep(0)
        return web.Response()

    assert await ask(held, handler) == 200
    assert not held.counts


async def test_waiting_holds_nobody_up(held: Held, clock: Clock) -> None:
    async def handler(_: web.Request) -> web.Response:
        asyncio.get_running_loop().call_soon(setattr, clock, "now", 2000.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return web.Response()

    assert await ask(held, handler) == 200
    assert not held.counts


async def test_a_path_that_is_not_there_has_no_name_of_its_own(held: Held, clock: Clock) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError

    paths: list[str] = []

    class Listed(Held):
        def see(self, path: str, seconds: float) -> None:
            paths.append(path)
            super().see(path, seconds)

    assert await ask(Listed(clock), handler, "/nothing/of/the/kind") == 404
    assert set(paths) == {NO_PATH}


async def test_an_error_and_a_cancel_pass_through(held: Held, clock: Clock) -> None:
    async def failing(_: web.Request) -> web.Response:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        except TimeoutError:
            raise web.HTTPConflict from None
        raise AssertionError

    assert await ask(held, failing) == 409


def test_a_path_is_told_of_once_in_a_while_and_counted_always(held: Held, clock: Clock) -> None:
    told: list[str] = []
    held.tell = lambda path, _: told.append(path)
    for _ in range(3):
        held.see("/a", 1.0)
        held.see("/b", 1.0)
    assert told == ["/a", "/b"]
    clock.now += QUIET
    held.see("/a", 1.0)
    assert told == ["/a", "/b", "/a"]
    assert held.counts == {"/a": 4, "/b": 3}


async def test_lateness_that_no_request_made_is_others(held: Held, clock: Clock) -> None:
    with Lag(held) as lag:
        clock.now += EVERY + BUDGET / 2
        lag.look()
        assert not held.counts
        clock.now += EVERY + 1
        lag.look()
        assert held.counts == {OTHER: 1}
        clock.now += EVERY + 1
        held.see("/a", 1.0)
        lag.look()
        assert held.counts == {OTHER: 1, "/a": 1}
