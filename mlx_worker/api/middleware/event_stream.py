"""The streamed way of an answer: from the link's callback straight to the socket.

A token is worth a few microseconds; a task switch, a coroutine and a queue each cost as much. So
pieces are written where they are heard, past aiohttp's writer, which sends the headers before the
first and the end with the last. A client that lags is not written to: what it will get piles up
in its generation as tokens, and goes out in one write when its socket is empty again. [front]
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, hdrs, web

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp.abc import AbstractStreamWriter

    from mlx_worker.api.dialects.base import ResponseWriter
    from mlx_worker.supervisor.requests.generation import Generation


HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


def streamed_response(
    request: web.Request, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Return the response of an event stream, which is not prepared yet.

    HTTP/1.0 knows no chunks: there only the end of the connection can end a body whose length
    is not known beforehand, also where the client asked to keep the connection (RFC 9112 6.3).
    """
    response = web.StreamResponse(headers={**HEADERS, **(headers or {})})
    if request.version < HttpVersion11:
        response.force_close()
    return response


class EventStream:
    """One response whose headers are sent, and the choices that it tells of."""

    def __init__(
        self,
        response: web.StreamResponse,
        writer: AbstractStreamWriter,
        transport: asyncio.WriteTransport,
        response_writer: ResponseWriter,
        generations: Sequence[Generation],
    ) -> None:
        self._writer = writer
        self._transport = transport
        self._is_chunked = hdrs.TRANSFER_ENCODING in response.headers
        self._high_water = transport.get_write_buffer_limits()[1]
        self._response_writer = response_writer
        self._generations = generations
        self._lags = False
        self._is_over = False
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Tell of it until all have ended. Raises what went wrong with a choice.

        What came last is left to be taken, and to be sent with the end.
        """
        try:
            for choice, generation in enumerate(self._generations):
                generation.attend(partial(self._news, generation, choice))
            while not await self._is_told():
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._is_over = True

    def take(self) -> bytes:
        """What has come and was not sent, as the dialect writes it."""
        return b"".join(self._said(it, choice) for choice, it in enumerate(self._generations))

    def _said(self, generation: Generation, choice: int) -> bytes:
        if (piece := generation.take()) is None:
            return b""
        writer = self._response_writer
        return writer.keepalive() if piece.is_sign else writer.delta(piece, choice)

    async def _is_told(self) -> bool:
        """Have all ended? Waits where the client lags, for nothing else."""
        while self._lags:  # again, where what piled up is more than its socket takes
            await self._writer.drain()
            self._lags = False
            self._write(self.take())
        for generation in self._generations:
            generation.check()
        return self._all_over

    @property
    def _all_over(self) -> bool:
        return all(it.over for it in self._generations)

    def _news(self, generation: Generation, choice: int) -> None:
        """Called by a generation that has something to say, or has ended."""
        if self._is_over:
            return
        if generation.over:
            self._wake.set()
            if self._all_over:
                return
        if not self._lags:
            self._write(self._said(generation, choice))

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if not data or transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
        if transport.get_write_buffer_size() > self._high_water:
            self._lags = True
            self._wake.set()
