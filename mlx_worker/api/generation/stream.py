"""Write the output of a streamed request from the pipe's callback straight to the socket.

A token costs a few microseconds; a task switch, a coroutine and a queue each cost as much. So
output is written where it arrives, past aiohttp's writer, which only sends the headers before the
first output and the end after the last. Nothing is written to a client that lags: its output
stays in the generation as tokens, and is written at once when the client's socket is empty again.

[front]
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import hdrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web
    from aiohttp.abc import AbstractStreamWriter

    from mlx_worker.api.dialects.base import ResponseWriter
    from mlx_worker.supervisor.requests.generation import Generation


def framed(data: bytes, *, is_chunked: bool) -> bytes:
    """Return bytes of a body as they go to the socket."""
    return b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data


class OutputStream:
    """Writes the output of all choices of one response, whose headers are already sent."""

    def __init__(
        self,
        response: web.StreamResponse,
        stream_writer: AbstractStreamWriter,
        transport: asyncio.WriteTransport,
        writer: ResponseWriter,
        generations: Sequence[Generation],
    ) -> None:
        self._stream_writer = stream_writer
        self._transport = transport
        self._is_chunked = hdrs.TRANSFER_ENCODING in response.headers
        self._high_water = transport.get_write_buffer_limits()[1]
        self._writer = writer
        self._generations = generations
        self._client_lags = False
        self._has_ended = False
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Write output until every generation has ended. Raises the error of one that failed.

        The last output is left for `drain_unsent`, so that it is sent together with the end.
        """
        try:
            for choice, generation in enumerate(self._generations):
                generation.output.subscribe(partial(self._on_output, generation, choice))
            while not await self._flush_backlog():
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._has_ended = True

    def drain_unsent(self) -> bytes:
        """Return the output that has arrived and was not sent, in the dialect's bytes."""
        return b"".join(
            self._format_output(generation, choice)
            for choice, generation in enumerate(self._generations)
        )

    def _format_output(self, generation: Generation, choice: int) -> bytes:
        if (delta := generation.output.drain()) is None:
            return b""
        return self._writer.keepalive() if delta.is_keepalive else self._writer.delta(delta, choice)

    async def _flush_backlog(self) -> bool:
        """Write what a lagging client has not got; return True if every generation has ended.

        Waits only while the client lags. Raises the error of a generation that failed.
        """
        while self._client_lags:  # again, where more has accumulated than the socket takes
            await self._stream_writer.drain()
            self._client_lags = False
            self._write(self.drain_unsent())
        for generation in self._generations:
            generation.raise_for_error()
        return self._all_ended

    @property
    def _all_ended(self) -> bool:
        return all(generation.has_ended for generation in self._generations)

    def _on_output(self, generation: Generation, choice: int) -> None:
        """Write what a generation has new, or note that it has ended. Called by the generation."""
        if self._has_ended:
            return
        if generation.has_ended:
            self._wake.set()
            if self._all_ended:
                return
        if not self._client_lags:
            self._write(self._format_output(generation, choice))

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if not data or transport.is_closing():
            return
        transport.write(framed(data, is_chunked=self._is_chunked))
        if transport.get_write_buffer_size() > self._high_water:
            self._client_lags = True
            self._wake.set()
