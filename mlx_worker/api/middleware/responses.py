"""Make the HTTP responses that endpoints share: JSON bodies and event streams.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11, web

from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENT_STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


def json_response(body: Any, status: int = 200) -> web.Response:
    """Return a response with this body as JSON."""
    return web.Response(body=encode(body), status=status, content_type="application/json")


class JoinedHeadResponse(web.StreamResponse):
    """An event stream whose headers are sent together with the first part of its body.

    One write to the socket instead of two: each wakes the client. The first part has to follow the
    preparation at once. aiohttp does the same for whole responses only, and has no public setting
    for streams. Without this attribute of aiohttp's class the headers would be a write of their
    own, which `test_headers_and_first_event_are_one_write` finds.
    """

    _send_headers_immediately = False


def event_stream_response(
    request: web.Request,
    headers: Mapping[str, str] | None = None,
    kind: type[web.StreamResponse] = web.StreamResponse,
) -> web.StreamResponse:
    """Return the response of an event stream, which is not prepared yet.

    HTTP/1.0 has no chunks. There only the end of the connection can end a body whose length is not
    known beforehand, also where the client asked to keep the connection (RFC 9112 6.3).
    """
    response = kind(headers={**EVENT_STREAM_HEADERS, **(headers or {})})
    if request.version < HttpVersion11:
        response.force_close()
    return response
