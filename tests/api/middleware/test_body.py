"""A body's pieces: however small they are, others have their turn in between."""

import asyncio
from typing import cast

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from mlx_worker.api.middleware.body import BODY_LIMITS, CHUNKS_PER_STEP, BodyLimits, read_body
from mlx_worker.errors import BodyTooSlow
from mlx_worker.supervisor.process.pause import PauseDetector
from tests.loop_clock import LoopClock

PIECES = 20 * CHUNKS_PER_STEP


class Dripping:
    """A body of which the next byte is always there, as in chunks of one byte."""

    def __init__(self) -> None:
        self._left = PIECES
        self.step = self.longest_step = 0

    def is_eof(self) -> bool:
        return False

    async def readany(self) -> bytes:
        self.step += 1
        self.longest_step = max(self.longest_step, self.step)
        self._left -= 1
        return b"x" if self._left >= 0 else b""


class Silent:
    """A body of which no more comes; `asked` is set once it is waited for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def is_eof(self) -> bool:
        return False

    async def readany(self) -> bytes:
        self.asked.set()
        await asyncio.Event().wait()
        return b""


def reading_of(body: object, max_pause: float, pause: PauseDetector) -> asyncio.Future[bytes]:
    app = web.Application()
    app[BODY_LIMITS] = BodyLimits(PIECES, max_pause, context_lengths=list, pause=lambda: pause)
    request = make_mocked_request("POST", "/", app=app, payload=cast("StreamReader", body))
    return asyncio.ensure_future(read_body(request))


async def test_a_body_is_not_too_slow_for_time_in_which_the_process_did_not_run() -> None:
    clock, body = LoopClock(), Silent()
    reading = reading_of(body, 10, PauseDetector(clock, 1.0))
    await body.asked.wait()
    clock.run(9)
    clock.stop(3600)
    clock.run(9)
    await asyncio.sleep(0)
    assert not reading.done()
    clock.run(2)
    with pytest.raises(BodyTooSlow, match="paused for more than 10 s"):
        await reading


async def test_a_body_in_tiny_pieces_gives_others_their_turn() -> None:
    body = Dripping()
    reading = reading_of(body, 60, PauseDetector(LoopClock(), 1.0))
    while not reading.done():
        body.step = 0
        await asyncio.sleep(0)
    assert await reading == b"x" * PIECES
    assert body.longest_step <= CHUNKS_PER_STEP
