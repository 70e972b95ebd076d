"""A client that has closed its side of the connection, and may still wait for its answer.

RFC 9112 6.3: a half-closed connection does not mean that the client has lost
interest in its answer. A client that is gone looks the same from here, because both send a FIN.
Only what is written to the client tells the two apart: the machine of a client that is gone answers
with a reset, and the write after that fails. So a request whose client sends no more goes on, and
while nothing else is written, this is: `100 Continue` before an answer has begun, which every
HTTP/1.1 client skips (RFC 9110 15.2), and a comment within an event stream. The first comes after
`FIRST` seconds, so that an answer that is ready at once comes alone; each pause is then as long as
all before. The failed write ends the connection, and with the connection the generation.

An HTTP/1.0 client knows no interim answers: what is not answered within `UNASKED` seconds is
dropped. Over TLS a client cannot close one side alone (asyncio), and none of this happens. [front]
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, hdrs, web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

FIRST: Final = 0.025
"""Seconds after the end of the client's bytes."""

LONGEST: Final = 2.0
"""Seconds between two probes at most: a client may also go after it has closed its side."""

UNASKED: Final = 1.0
"""Seconds in which an answer to HTTP/1.0 has to begin."""

INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
COMMENT: Final = b":\n\n"

_IN_STREAM: web.RequestKey[bytes] = web.RequestKey("in_stream", bytes)


@contextmanager
def within_stream(request: web.Request, response: web.StreamResponse) -> Iterator[None]:
    """Let a comment be written between the events of a stream meanwhile."""
    chunked = hdrs.TRANSFER_ENCODING in response.headers
    request[_IN_STREAM] = b"%x\r\n%b\r\n" % (len(COMMENT), COMMENT) if chunked else COMMENT
    try:
        yield
    finally:
        del request[_IN_STREAM]


class Prober:
    """Writes to a half-closed client until its connection is lost or closed.

    `asked` returns the request that a handler answers now; None between handlers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        asked: Callable[[], web.BaseRequest | None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._asked = asked
        self._passed = 0.0
        self._timer = loop.call_later(FIRST, self._probe, FIRST)

    def cancel(self) -> None:
        """Stop probing."""
        self._timer.cancel()

    def _probe(self, waited: float) -> None:
        if self._transport.is_closing():
            return
        self._passed += waited
        request = self._asked()
        # What is on its way to the client asks the same question.
        if request is not None and self._transport.get_write_buffer_size() == 0:
            if self._is_unaskable(request):
                self._transport.abort()
                return
            if text := _probe_text(request):
                self._transport.write(text)
        pause = min(max(FIRST, self._passed), LONGEST)
        self._timer = self._loop.call_later(pause, self._probe, pause)

    def _is_unaskable(self, request: web.BaseRequest) -> bool:
        is_old = request.version < HttpVersion11
        return is_old and not _has_begun(request) and self._passed >= UNASKED


def _probe_text(request: web.BaseRequest) -> bytes:
    """Return what may be written now; nothing amid an answer in one piece."""
    comment: bytes | None = request.get(_IN_STREAM)
    if comment is not None:
        return comment
    if request.version < HttpVersion11 or _has_begun(request):
        return b""
    return INTERIM


def _has_begun(request: web.BaseRequest) -> bool:
    return request.writer.output_size > 0
