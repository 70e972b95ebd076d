"""Serve a request whose response may outlive its client: begin the request, or join an earlier one.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.generation.lingering.attempt import attempt_of
from mlx_worker.api.generation.lingering.joined import JoinAccounting
from mlx_worker.api.generation.lingering.table import RECORDED_REQUESTS
from mlx_worker.api.middleware.request_ids import request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from mlx_worker.api.dialects.base import DialectName
    from mlx_worker.api.generation.lingering.recorded_request import RecordedRequest


async def serve(
    request: web.Request,
    dialect: DialectName,
    body: bytes,
    respond: Callable[[web.Request], Awaitable[web.StreamResponse]],
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


async def join(request: web.Request, recorded: RecordedRequest) -> web.StreamResponse:
    """Respond to a client with the response of an earlier request."""
    with JoinAccounting(request, request.app[CONTEXT], recorded):
        return await _respond(request, recorded, joined=request_id(recorded.request))


async def _respond(
    request: web.Request, recorded: RecordedRequest, *, joined: str = ""
) -> web.StreamResponse:
    return await recorded.respond_to(request, joined=joined)
