"""Time limits of a connection, in a process that stands still for a while."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiohttp import web

from mlx_worker.api.middleware.connections import Connection, ConnectionLimiter
from mlx_worker.api.middleware.slow_steps import SlowSteps
from mlx_worker.config.schema import ServerConfig
from mlx_worker.supervisor.process.pause import PauseDetector
from tests.loop_clock import LoopClock


class Transport(asyncio.Transport):
    """A connection to a client that takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.ended_by = ""

    def close(self) -> None:
        self.ended_by = "close"

    def abort(self) -> None:
        self.ended_by = "abort"

    def is_closing(self) -> bool:
        return bool(self.ended_by)


async def answer(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


def connected(clock: LoopClock) -> tuple[Connection, Transport]:
    limiter = ConnectionLimiter(ServerConfig(send_timeout=60, idle_timeout=75), SlowSteps())
    limiter.set_pause_detector(PauseDetector(clock, 1.0))
    connection, transport = limiter.create_protocol(web.Server(answer)), Transport()
    connection.connection_made(transport)
    return connection, transport


async def test_connection_whose_client_reads_nothing_is_aborted_in_time() -> None:
    clock = LoopClock()
    connection, transport = connected(clock)
    connection.pause_writing()
    clock.run(59)
    assert transport.ended_by == ""
    clock.run(2)
    assert transport.ended_by == "abort"
    connection.connection_lost(None)


async def test_connection_is_not_aborted_for_time_in_which_the_process_did_not_run() -> None:
    clock = LoopClock()
    connection, transport = connected(clock)
    connection.pause_writing()
    clock.run(30)
    clock.stop(3600)
    clock.run(59)
    assert transport.ended_by == ""
    connection.resume_writing()
    clock.run(600)
    assert transport.ended_by == ""
    connection.connection_lost(None)


@pytest.mark.parametrize(("slept", "ended_by"), [(0, "close"), (3600, "")])
async def test_connection_is_not_idle_for_time_in_which_the_process_did_not_run(
    slept: float, ended_by: str
) -> None:
    loop = asyncio.get_running_loop()
    clock = LoopClock(loop.time() - 1000)
    connection, transport = connected(clock)
    for _ in range(3):  # the connection waits for a request
        await asyncio.sleep(0)
    clock.stop(slept)
    cast("Any", connection)._next_keepalive_close_time = loop.time() - 1
    connection._process_keepalive()
    assert transport.ended_by == ended_by
    connection.connection_lost(None)
