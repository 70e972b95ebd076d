"""Find out whether a client that has closed its side of the connection still waits.

RFC 9112 6.3: a half-closed connection does not mean that the client has lost interest in the
response. A client that is gone looks the same from here, because both send a FIN. Only writing to
the client tells the two apart: the machine of a client that is gone answers with a reset, and the
next write fails. So the request goes on, and while nothing else is written, probes are:
`100 Continue` before the response has begun, which every HTTP/1.1 client skips (RFC 9110 15.2), and
a comment within an event stream. The first probe is sent after `FIRST_PAUSE` seconds, so that a
fast response comes without one. Each pause is then as long as all pauses before. The failed write
ends the connection, and with the connection the generation.

An HTTP/1.0 client does not understand interim responses: a request that is not answered within
`HTTP_1_0_TIMEOUT` seconds is dropped. Over TLS a client cannot close one side alone (asyncio), and
nothing is probed.

[front]
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, hdrs, web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

FIRST_PAUSE: Final = 0.025
"""Seconds from the end of the client's bytes to the first probe."""

MAX_PAUSE: Final = 2.0
"""Seconds between two probes at most: a client may also leave after it has closed its side."""

HTTP_1_0_TIMEOUT: Final = 1.0
"""Seconds in which a response to HTTP/1.0 has to begin."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
COMMENT: Final = b":\n\n"

_IN_STREAM: web.RequestKey[bytes] = web.RequestKey("in_stream", bytes)


@contextmanager
def within_stream(request: web.Request, response: web.StreamResponse) -> Iterator[None]:
    """Let probes be comments between the events of a stream, while the context is entered."""
    chunked = hdrs.TRANSFER_ENCODING in response.headers
    request[_IN_STREAM] = b"%x\r\n%b\r\n" % (len(COMMENT), COMMENT) if chunked else COMMENT
    try:
        yield
    finally:
        del request[_IN_STREAM]


class Prober:
    """Writes to a half-closed client until its connection is lost or closed.

    `current_request` returns the request that a handler answers now; None between handlers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        current_request: Callable[[], web.BaseRequest | None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._current_request = current_request
        self._elapsed = 0.0
        self._timer = loop.call_later(FIRST_PAUSE, self._probe, FIRST_PAUSE)

    def cancel(self) -> None:
        """Stop probing."""
        self._timer.cancel()

    def _probe(self, waited: float) -> None:
        if self._transport.is_closing():
            return
        self._elapsed += waited
        request = self._current_request()
        # Bytes that are on their way to the client are a probe too.
        if request is not None and self._transport.get_write_buffer_size() == 0:
            if self._cannot_be_probed(request):
                self._transport.abort()
                return
            if text := _probe_text(request):
                self._transport.write(text)
        pause = min(max(FIRST_PAUSE, self._elapsed), MAX_PAUSE)
        self._timer = self._loop.call_later(pause, self._probe, pause)

    def _cannot_be_probed(self, request: web.BaseRequest) -> bool:
        is_old = request.version < HttpVersion11
        return is_old and not _has_begun(request) and self._elapsed >= HTTP_1_0_TIMEOUT


def _probe_text(request: web.BaseRequest) -> bytes:
    """Return the probe that may be written now; b"" within a response that is not a stream."""
    comment: bytes | None = request.get(_IN_STREAM)
    if comment is not None:
        return comment
    if request.version < HttpVersion11 or _has_begun(request):
        return b""
    return CONTINUE


def _has_begun(request: web.BaseRequest) -> bool:
    return request.writer.output_size > 0
