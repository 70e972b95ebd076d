"""Send a recording to a client: what was said at once, the rest as it comes.

A chunk is written to the client's socket in the call that records it. Nothing is written to a
client that lags: its place in the recording says what to write when the socket is empty again.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from mlx_worker.api.middleware.half_close import within_stream
from mlx_worker.api.middleware.request_ids import (
    JOINED,
    REQUEST_ID,
    SESSION_ID,
    request_id,
    session_given,
)
from mlx_worker.api.middleware.responses import event_stream_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import AbstractStreamWriter

    from mlx_worker.api.generation.lingering.recording import Recording

MAX_WRITE: Final = 256 * 1024
"""Bytes that are joined for one write to a client that comes late."""

OF_THE_CONNECTION: Final = frozenset(
    name.lower()
    for name in (
        hdrs.CONNECTION,
        hdrs.CONTENT_LENGTH,
        hdrs.DATE,
        hdrs.KEEP_ALIVE,
        hdrs.SERVER,
        hdrs.TRANSFER_ENCODING,
        hdrs.VARY,
    )
)
CORS_PREFIX: Final = "access-control-"
"""Headers of the first client's connection or origin, which another client gets of its own."""


def all_of(data: bytes) -> bytes:
    """Return all bytes: what most clients want."""
    return data


class StreamFollower:
    """Writes a recorded stream to one client.

    `select` returns the part of a chunk that the client is to get.
    """

    def __init__(self, recording: Recording, select: Callable[[bytes], bytes]) -> None:
        self.position = 0
        self._recording = recording
        self._select = select
        self._transport: asyncio.WriteTransport | None = None
        self._is_chunked = False
        self._high_water = 0
        self._client_lags = False
        self._wake = asyncio.Event()

    async def run(
        self,
        stream_writer: AbstractStreamWriter,
        transport: asyncio.WriteTransport,
        *,
        is_chunked: bool,
    ) -> bytes:
        """Write until the recording has ended; return the last bytes, to be sent with the end.

        The client has the headers already.
        """
        self._transport, self._is_chunked = transport, is_chunked
        self._high_water = transport.get_write_buffer_limits()[1]
        while True:
            self._wake.clear()
            self._write_next(transport)
            if self._client_lags:
                await stream_writer.drain()
                self._client_lags = False
            elif self._recording.has_ended:
                return self._last()
            else:
                await self._wake.wait()

    def on_change(self) -> None:
        """Write what is new. Called by the recording."""
        if self._recording.has_ended:
            self._wake.set()
        elif self._transport is not None and not self._client_lags:
            self._write_next(self._transport)
            if self._client_lags:
                self._wake.set()

    def _write_next(self, transport: asyncio.WriteTransport) -> None:
        """Write all chunks but a last one, unless the client lags."""
        recording = self._recording
        while not self._client_lags and self.position < recording.length - recording.has_ended:
            data, self.position = recording.read(self.position, MAX_WRITE)
            data = self._select(data)
            if not data or transport.is_closing():
                continue
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
            self._client_lags = transport.get_write_buffer_size() > self._high_water

    def _last(self) -> bytes:
        if self.position >= self._recording.length:
            return b""
        data, self.position = self._recording.read(self.position, MAX_WRITE)
        return self._select(data)


async def follow(
    request: web.Request,
    recording: Recording,
    *,
    joined: str = "",
    select: Callable[[bytes], bytes] = all_of,
) -> web.StreamResponse:
    """Respond with a recording, from its start. Raises the refusal, or the error of a whole answer.

    `joined` is the id of the request that began the recording; "" for that request itself.
    """
    follower = StreamFollower(recording, select)
    recording.attach(follower)
    try:
        await recording.begun()
        headers = _headers_for(request, recording, joined)
        if not recording.is_stream:
            body, _ = recording.read(0, MAX_WRITE)
            return web.Response(body=body, status=recording.status, headers=headers)
        response = event_stream_response(request, headers)
        stream_writer, transport = await response.prepare(request), request.transport
        assert stream_writer is not None, "no other response was sent"
        if transport is None:
            raise ConnectionResetError("the client has left")
        is_chunked = hdrs.TRANSFER_ENCODING in response.headers
        with within_stream(request, response):
            last = await follower.run(stream_writer, transport, is_chunked=is_chunked)
    finally:
        recording.detach(follower)
    if recording.is_broken:
        response.force_close()
    if recording.error is not None:  # no other response can follow what was sent
        raise ConnectionResetError("the response ended without its rest") from recording.error
    await response.write_eof(last)
    return response


def _headers_for(request: web.Request, recording: Recording, joined: str) -> dict[str, str]:
    """Return the recorded headers that say something of the response, with this client's ids."""
    headers = {
        name: value
        for name, value in recording.headers.items()
        if name.lower() not in OF_THE_CONNECTION and not name.lower().startswith(CORS_PREFIX)
    }
    headers[REQUEST_ID] = request_id(request)
    if (session := session_given(request)) is not None:
        headers[SESSION_ID] = session
    return headers | ({JOINED: joined} if joined else {})
