"""Serve the health endpoints and the probes. They answer whether or not a model runs.

[front]
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.admin import health_report, reports, schemas
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.middleware.responses import json_response

if TYPE_CHECKING:
    from typing import Final

TRUE_VALUES: Final = ("", "1", "true")


async def health(request: web.Request) -> web.Response:
    """Serve `GET /health`: always 200, with the status in the body; `?brief` shortens models."""
    body = reports.health(request.app[CONTEXT])
    return json_response(health_report.brief(body) if _is_brief(request) else body)


async def cluster_health(request: web.Request) -> web.Response:
    """Serve `GET /v1/cluster/health`: the same body, with 503 where no model can serve.

    With many models the body is brief: routers poll it, and large bodies cost a connection each.
    """
    context = request.app[CONTEXT]
    status = HTTPStatus.OK if reports.can_serve(context) else HTTPStatus.SERVICE_UNAVAILABLE
    body = reports.health(context)
    if _is_brief(request):
        return json_response(health_report.brief(body), status)
    text = health_report.encoded_within_limit(body)
    return web.Response(body=text, status=status, content_type="application/json")


def _is_brief(request: web.Request) -> bool:
    return request.query.get("brief", "false").lower() in TRUE_VALUES


async def live(_request: web.Request) -> web.Response:
    """Serve `GET /health/live`: the process is up."""
    return json_response(schemas.Readiness("live"))


async def ready(request: web.Request) -> web.Response:
    """Serve `GET /health/ready`: 503 where no model can serve."""
    if reports.can_serve(request.app[CONTEXT]):
        return json_response(schemas.Readiness("ready"))
    return json_response(schemas.Readiness("not ready"), HTTPStatus.SERVICE_UNAVAILABLE)
