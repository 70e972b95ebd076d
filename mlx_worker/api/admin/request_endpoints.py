"""Serve the table of generation requests, and cancel a request.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.api.admin.schemas import Cancelled
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.middleware.responses import json_response

if TYPE_CHECKING:
    from aiohttp import web


async def requests(request: web.Request) -> web.Response:
    """Serve `GET /admin/requests`."""
    return json_response(request.app[CONTEXT].request_table.rows())


async def cancel(request: web.Request) -> web.Response:
    """Serve `POST /admin/requests/{id}/cancel`: the client gets an error in its dialect."""
    id_ = request.match_info["id"]
    request.app[CONTEXT].request_table.cancel(id_)
    return json_response(Cancelled(id_))
