"""A ring over HTTP: what it holds as a list, or live as server-sent events. [front]"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import hdrs, web

from mlx_worker.api.middleware.event_stream import streamed_response
from mlx_worker.api.middleware.half_close import within_stream
from mlx_worker.errors import InvalidRequest
from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.supervisor.ring_buffer import Ring

HEARTBEAT: Final = 15.0
"""Seconds without news after which a comment is sent: proxies close what is silent for long."""


def listed(request: web.Request, ring: Ring[Any]) -> list[dict[str, Any]]:
    """What is in the ring after `?after=`, each with its `id`. Raises InvalidRequest."""
    return [_with_id(*it) for it in ring.after(_number(request.query.get("after", "0"), "after"))]


async def live(
    request: web.Request,
    ring: Ring[Any],
    every: float = HEARTBEAT,
    beside: Callable[[], bytes] | None = None,
) -> web.StreamResponse:
    """Each as an event whose id is its number, until the node or the reader goes.

    Begins after `Last-Event-ID`, which a reader that comes again says by itself, or `?after=`.
    What `beside` says is sent after them, or after `every` seconds without any; where there is
    none, a comment is sent then. HEAD has the headers alone.
    """
    last = request.headers.get("Last-Event-ID")
    if last is None:
        number = _number(request.query.get("after", "0"), "after")
    else:
        number = _number(last, "Last-Event-ID")
    response = streamed_response(request)
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        await response.write_eof()
        return response
    with within_stream(request, response):
        async with aclosing(ring.follow(number, every)) as news:
            async for items in news:
                told = b"".join(map(_event, items))
                await response.write(told + beside() if beside else told or b": nothing new\n\n")
    await response.write_eof()
    return response


def _number(text: str, where: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 16:  # noqa: PLR2004  (2^53 has 16)
        return int(text)
    raise InvalidRequest(f"{where}: {text!r} is no number of an entry", param=where)


def _with_id(number: int, item: Any) -> dict[str, Any]:
    return {"id": number, **msgspec.structs.asdict(item)}


def _event(numbered: tuple[int, Any]) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (numbered[0], encode(_with_id(*numbered)))
