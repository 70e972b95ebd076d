"""Give code that responds to a client a recording in place of the client.

The stand-in has the request's head, its state and its application. What is written to its
connection is recorded, and never fails: a recording neither lags nor leaves. It is an HTTP/1.0
request, to which a stream is written without the framing of chunks.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

if TYPE_CHECKING:
    from multidict import CIMultiDict

    from mlx_worker.api.generation.lingering.recording import Recording

BUFFER_LIMITS = (0, 1)
"""Bytes of a write buffer that is always empty."""


class RecordingTransport(asyncio.Transport):
    """Records what is written to it."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Record bytes."""
        self._recording.write(bytes(data))

    def is_closing(self) -> bool:
        """Return False: a recording does not leave."""
        return False

    def get_write_buffer_size(self) -> int:
        """Return 0: a recording does not lag."""
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return limits that an empty buffer never reaches."""
        return BUFFER_LIMITS


class RecordingWriter(AbstractStreamWriter):
    """Records a head and a body."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """Record the head."""
        self._recording.begin(int(status_line.split()[1]), headers.copy())

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Record bytes of the body."""
        self._recording.write(bytes(chunk))

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Record the last bytes of the body."""
        self._recording.finish(bytes(chunk))

    async def drain(self) -> None:
        """Return at once."""

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Do nothing: no response of this node is compressed."""

    def enable_chunking(self) -> None:
        """Do nothing: each client has a framing of its own."""


class _RecordedConnection:
    """The part of a connection that a request needs."""

    def __init__(self, original: web.Request, recording: Recording) -> None:
        # Without the connection itself: the recording may outlive it.
        transport = original.transport
        self.ssl_context = None if transport is None else transport.get_extra_info("sslcontext")
        self.peername = None if transport is None else transport.get_extra_info("peername")
        self.sockname = None if transport is None else transport.get_extra_info("sockname")
        self.transport = RecordingTransport(recording)


class RecordedHttpRequest(web.Request):
    """A request whose response goes to a recording."""

    def __init__(self, original: web.Request, recording: Recording) -> None:
        message = RawRequestMessage(
            original.method,
            original.raw_path,
            HttpVersion10,
            original.headers,
            original.raw_headers,
            should_close=True,
            compression=None,
            upgrade=False,
            chunked=False,
            url=original.rel_url,
        )
        super().__init__(
            message,
            EMPTY_PAYLOAD,
            cast("Any", _RecordedConnection(original, recording)),
            RecordingWriter(recording),
            cast("Any", asyncio.current_task()),
            asyncio.get_running_loop(),
            state=dict(original),
        )
        self._match_info = original.match_info
