"""Serve the lists of models, and the endpoints that start and end a model's process.

[front]
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from mlx_worker import __version__
from mlx_worker.api.admin import reports, schemas
from mlx_worker.api.admin.anthropic_models import anthropic_model, models_page
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.middleware.responses import json_response
from mlx_worker.api.middleware.vendor import expects_anthropic
from mlx_worker.errors import UnknownModel

if TYPE_CHECKING:
    from aiohttp import web


async def models(request: web.Request) -> web.Response:
    """Serve `GET /v1/models`, in Anthropic's shape for Anthropic's clients."""
    context = request.app[CONTEXT]
    reports.refuse_if_gone(context)
    entries = reports.models(context)
    if expects_anthropic(request):
        return json_response(models_page(request, entries))
    return json_response(schemas.ModelList(entries))


async def model(request: web.Request) -> web.Response:
    """Serve `GET /v1/models/{id}`, in Anthropic's shape for Anthropic's clients."""
    context = request.app[CONTEXT]
    reports.refuse_if_gone(context)
    name = request.match_info["id"]
    for entry in reports.models(context):
        if entry.id == name:
            return json_response(anthropic_model(entry) if expects_anthropic(request) else entry)
    raise UnknownModel(f"no model is named {name!r}", param="model")


async def version(_request: web.Request) -> web.Response:
    """Serve `GET /version`. A router that finds this path reads `vllm:…` of `/metrics`."""
    return json_response(schemas.Version(__version__))


async def restart(request: web.Request) -> web.Response:
    """Serve `POST /admin/models/{id}/restart`: 202 at once; `/health` reports the progress."""
    node = request.app[CONTEXT].node
    model = node.named(request.match_info["id"])
    node.restart(model)
    return json_response(schemas.Restarting(model.config.id), HTTPStatus.ACCEPTED)


async def load(request: web.Request) -> web.Response:
    """Serve `POST /admin/models/{id}/load`: 202 at once; `/health` reports the progress."""
    node = request.app[CONTEXT].node
    model = node.named(request.match_info["id"])
    node.load(model)
    return json_response(schemas.Loading(model.config.id), HTTPStatus.ACCEPTED)


async def unload(request: web.Request) -> web.Response:
    """Serve `POST /admin/models/{id}/unload`: 202 at once, 409 while the model is busy."""
    node = request.app[CONTEXT].node
    model = node.named(request.match_info["id"])
    node.unload(model)
    return json_response(schemas.Unloading(model.config.id), HTTPStatus.ACCEPTED)
