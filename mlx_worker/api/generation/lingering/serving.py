"""Serve a request whose response may outlive its client: begin the request, or join an earlier one.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.generation.lingering.attempt import attempt_of
from mlx_worker.api.generation.lingering.follower import all_of
from mlx_worker.api.generation.lingering.joined import JoinAccounting
from mlx_worker.api.generation.lingering.table import RECORDED_REQUESTS
from mlx_worker.api.middleware.request_ids import JOINED, request_id, response_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.api.dialects.base import DialectName
    from mlx_worker.api.generation.lingering.recorded_request import RecordedRequest, Respond


async def serve(
    request: web.Request,
    dialect: DialectName,
    body: bytes,
    respond: Respond,
) -> web.StreamResponse:
    """Respond to a generation's request. Raises the refusal where nothing was sent yet.

    `respond` responds to a request that is new. For a plain request the client's own handler calls
    that function, and the response ends with the client.
    """
    table = request.app[RECORDED_REQUESTS]
    attempt = await attempt_of(request, dialect, body, table.server)
    if attempt is None:
        return await respond(request)
    recorded = table.find(attempt)
    if recorded is not None:
        return await join(request, recorded)
    return await _respond(request, table.start(attempt, request, respond))


async def join(
    request: web.Request, recorded: RecordedRequest, select: Callable[[bytes], bytes] = all_of
) -> web.StreamResponse:
    """Respond to a client with the response of an earlier request, as far as the client wants it.

    `select` returns what of the next bytes of a stream the client is to get.
    """
    with JoinAccounting(request, request.app[CONTEXT], recorded):
        first = request_id(recorded.request)
        return await _respond(request, recorded, joined=first, select=select)


async def _respond(
    request: web.Request,
    recorded: RecordedRequest,
    *,
    joined: str = "",
    select: Callable[[bytes], bytes] = all_of,
) -> web.StreamResponse:
    with recorded.client(request):
        await recorded.parsed()
        is_streamed = recorded.object is not None and recorded.object.is_streamed
        if recorded.is_background and not is_streamed:
            return response_object(request, recorded, joined=joined)
        return await recorded.respond_to(request, joined=joined, select=select)


def response_object(
    request: web.Request, recorded: RecordedRequest, *, joined: str = ""
) -> web.Response:
    """Respond with how far a response of the Responses dialect is."""
    record = recorded.snapshot()
    headers = response_headers(request, record.model, record.warnings)
    return web.Response(
        body=recorded.object_as_json(),
        content_type="application/json",
        headers=headers | ({JOINED: joined} if joined else {}),
    )
