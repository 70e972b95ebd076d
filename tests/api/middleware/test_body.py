"""A body's pieces: however small they are, others have their turn in between."""

import asyncio
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from mlx_worker.api.middleware.body import BODY_LIMITS, CHUNKS_PER_STEP, BodyLimits, read_body

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


async def test_a_body_in_tiny_pieces_gives_others_their_turn() -> None:
    body = Dripping()
    app = web.Application()
    app[BODY_LIMITS] = BodyLimits(max_bytes=PIECES, max_pause=60, context_lengths=list)
    request = make_mocked_request("POST", "/", app=app, payload=cast("StreamReader", body))
    reading: asyncio.Future[Any] = asyncio.ensure_future(read_body(request))
    while not reading.done():
        body.step = 0
        await asyncio.sleep(0)
    assert await reading == b"x" * PIECES
    assert body.longest_step <= CHUNKS_PER_STEP
