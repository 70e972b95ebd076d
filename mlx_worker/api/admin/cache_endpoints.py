"""Serve the state of the prompt caches, and warm and clear them.

[front]
"""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mlx_worker.api.admin import reports, schemas
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dialects.base import rename_field
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.middleware.errors import error_response
from mlx_worker.api.middleware.responses import json_response
from mlx_worker.api.parsing.body_kinds import PromptToWarm
from mlx_worker.api.parsing.model_table import NodeModels
from mlx_worker.api.parsing.parser import parse_body
from mlx_worker.errors import InvalidRequest, Unavailable, WorkerError
from mlx_worker.supervisor.stored_kv import clear_stored, list_stored

if TYPE_CHECKING:
    from aiohttp import web

    from mlx_worker.supervisor.model import ModelRuntime


async def cache_state(request: web.Request) -> web.Response:
    """Serve `GET /cache` and `GET /v1/cluster/cache`; `?model=` asks for one model's cache."""
    context = request.app[CONTEXT]
    return json_response(reports.cache(context, _model_in_query(request)))


_WARM_FIELDS: Final = MappingProxyType({"messages": "system_prompt"})
"""What the child calls the system prompt, and the name that the caller gave."""


async def cache_warm(request: web.Request) -> web.Response:
    """Serve `POST /cache/warm` and `POST /v1/cluster/cache/warm`."""
    context = request.app[CONTEXT]
    models = NodeModels(context.node)
    name, prompt = await parse_body(request, await read_body(request), PromptToWarm(), models)
    model = models.find(name)
    try:
        warmed = await context.node.client.warm(model, prompt)
    except (InvalidRequest, Unavailable) as error:
        rename_field(error, _WARM_FIELDS)
        raise
    except WorkerError as error:
        return error_response(request, WorkerError(f"warming failed: {error}"))
    digest = warmed.digest
    body = schemas.WarmResponse(digest, digest, warmed.tokens, warmed.at, model.config.id)
    return json_response(body)


async def cache_clear(request: web.Request) -> web.Response:
    """Serve `DELETE /cache`, in memory and on disk; `?model=` clears one model's cache only."""
    node = request.app[CONTEXT].node
    named = _model_in_query(request)
    models = [named] if named else list(node.models.values())
    # Together: a child that hangs keeps no other from clearing.
    answers = await asyncio.gather(*map(node.client.clear, models))
    cleared = [model for model, is_cleared in zip(models, answers, strict=True) if is_cleared]
    if (folder := node.kv_folder.settings) is not None:
        running = [model for model in node.models.values() if model.child.serving]
        await clear_stored(folder, models, cleared, running, all_=named is None)
    return json_response(schemas.ClearResponse([model.config.id for model in models]))


async def cache_on_disk(request: web.Request) -> web.Response:
    """Serve `GET /cache/disk`: what is on disk, also of models that are not loaded."""
    node = request.app[CONTEXT].node
    folder = node.kv_folder.settings
    if folder is None:
        return json_response(schemas.DiskContents(None, node.kv_folder.off, []))
    stored = [
        schemas.StoredKv(
            kv.identity, list(kv.models), kv.records, kv.tokens, kv.nbytes, kv.last_used * 1000
        )
        for kv in await list_stored(folder)
    ]
    return json_response(schemas.DiskContents(folder.path, "", stored))


def _model_in_query(request: web.Request) -> ModelRuntime | None:
    name = request.query.get("model")
    return None if name is None else request.app[CONTEXT].node.find(name)
