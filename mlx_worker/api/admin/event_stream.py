"""Serve the entries of a ring buffer: as a list, or as they come as server-sent events.

[front]
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import hdrs

from mlx_worker.api.middleware.half_close import within_stream
from mlx_worker.api.middleware.responses import event_stream_response
from mlx_worker.errors import InvalidRequest
from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from mlx_worker.supervisor.ring_buffer import RingBuffer

HEARTBEAT_INTERVAL: Final = 15.0
"""Seconds without an entry after which a comment is sent: proxies close silent connections."""

MAX_DIGITS: Final = 15
"""Of an entry's number: 2^53, the largest exact number of JavaScript, has 16."""


def entries_after(request: web.Request, ring: RingBuffer[Any]) -> list[dict[str, Any]]:
    """Return the entries after `?after=`, each with its `id`. Raises InvalidRequest."""
    first = _entry_number(request.query.get("after", "0"), "after")
    return [_with_id(number, entry) for number, entry in ring.after(first)]


async def stream_entries(
    request: web.Request,
    ring: RingBuffer[Any],
    interval: float = HEARTBEAT_INTERVAL,
    report: Callable[[], bytes] | None = None,
) -> web.StreamResponse:
    """Send each entry as an event whose id is the entry's number, until node or client end.

    The stream begins after `Last-Event-ID`, which a browser that reconnects sends by itself, or
    after `?after=`. What `report` returns is sent after new entries, and after `interval` seconds
    without any. Without `report` a comment is sent then. HEAD gets the headers alone.
    """
    last = request.headers.get("Last-Event-ID")
    if last is None:
        number = _entry_number(request.query.get("after", "0"), "after")
    else:
        number = _entry_number(last, "Last-Event-ID")
    response = event_stream_response(request)
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        await response.write_eof()
        return response
    with within_stream(request, response):
        async with aclosing(ring.follow(number, interval)) as batches:
            async for entries in batches:
                events = b"".join(map(_event, entries))
                body = events + report() if report else events or b": nothing new\n\n"
                await response.write(body)
    await response.write_eof()
    return response


def _entry_number(text: str, where: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS:
        return int(text)
    raise InvalidRequest(f"{where}: {text!r} is not the number of an entry", param=where)


def _with_id(number: int, entry: Any) -> dict[str, Any]:
    return {"id": number, **msgspec.structs.asdict(entry)}


def _event(numbered: tuple[int, Any]) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (numbered[0], encode(_with_id(*numbered)))
