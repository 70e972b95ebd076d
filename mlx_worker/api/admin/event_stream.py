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
    from collections.abc import AsyncGenerator, Iterable

    from aiohttp import web

    from mlx_worker.supervisor.ring_buffer import RingBuffer

HEARTBEAT_INTERVAL: Final = 15.0
"""Seconds without an entry after which a comment is sent: proxies close silent connections."""

MAX_DIGITS: Final = 15
"""Of an entry's number: 2^53, the largest exact number of JavaScript, has 16."""


def entries_after(request: web.Request, ring: RingBuffer[Any]) -> list[dict[str, Any]]:
    """Return the entries after `?after=`, each with its `id`. Raises InvalidRequest."""
    first = entry_number(request.query.get("after", "0"), "after")
    return [_with_id(number, entry) for number, entry in ring.after(first)]


def first_entry(request: web.Request) -> int:
    """Return the number of the entry after which a stream begins. Raises InvalidRequest.

    A browser that reconnects sends `Last-Event-ID` by itself; other clients send `?after=`.
    """
    if (last := request.headers.get("Last-Event-ID")) is not None:
        return entry_number(last, "Last-Event-ID")
    return entry_number(request.query.get("after", "0"), "after")


def entry_number(text: str, where: str) -> int:
    """Return the number of an entry. Raises InvalidRequest, which names `where` it was."""
    if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS:
        return int(text)
    raise InvalidRequest(f"{where}: {text!r} is not the number of an entry", param=where)


async def stream_entries(
    request: web.Request, ring: RingBuffer[Any], interval: float = HEARTBEAT_INTERVAL
) -> web.StreamResponse:
    """Send each entry as an event whose id is the entry's number, until node or client end.

    A comment is sent after `interval` seconds without an entry.
    """
    return await send_stream(request, _batches(ring, first_entry(request), interval))


async def _batches(
    ring: RingBuffer[Any], number: int, interval: float
) -> AsyncGenerator[bytes, None]:
    async with aclosing(ring.follow(number, interval)) as batches:
        async for entries in batches:
            yield entry_events(entries) or b": nothing new\n\n"


async def send_stream(
    request: web.Request, batches: AsyncGenerator[bytes, None]
) -> web.StreamResponse:
    """Send batches of events until they or the client end. HEAD gets the headers alone."""
    async with aclosing(batches):
        response = event_stream_response(request)
        await response.prepare(request)
        if request.method != hdrs.METH_HEAD:
            with within_stream(request, response):
                async for batch in batches:
                    await response.write(batch)
        await response.write_eof()
        return response


def entry_events(entries: Iterable[tuple[int, Any]]) -> bytes:
    """Return numbered entries as events that a reconnecting client can continue after."""
    return b"".join(
        b"id: %d\ndata: %s\n\n" % (number, encode(_with_id(number, entry)))
        for number, entry in entries
    )


def named_events(name: str, entries: Iterable[tuple[int, Any]]) -> bytes:
    """Return numbered entries as events of a name; their numbers are only in the data."""
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (name.encode(), encode(_with_id(number, entry)))
        for number, entry in entries
    )


def _with_id(number: int, entry: Any) -> dict[str, Any]:
    return {"id": number, **msgspec.structs.asdict(entry)}
