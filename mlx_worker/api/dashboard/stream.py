"""What the page shows, pushed: the node's report once a second and whenever something happens.

One stream a reader: events as they come, and after each of them, or a second without any, all
figures anew. They are read when they are sent, from where `/health` and `/metrics` read them:
nothing is done while nobody looks. [front]
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from mlx_worker import __version__
from mlx_worker.api.admin import reports
from mlx_worker.api.admin.event_stream import listed, live
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dashboard.history import SAMPLE_INTERVAL
from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from mlx_worker.api.context import AppContext
    from mlx_worker.supervisor.node import Served

PERIOD: Final = 1.0
"""Seconds between two reports while nothing happens."""


async def watch(request: web.Request) -> web.StreamResponse:
    """`GET /admin/watch`: the events after `?after=`, and `report` events between them."""
    context = request.app[CONTEXT]
    return await live(request, context.node.events, PERIOD, partial(_told, context))


async def history(request: web.Request) -> web.Response:
    """`GET /admin/history`: the last hour's samples, the oldest first; `?after=ID` the newer."""
    body = {
        "every": SAMPLE_INTERVAL,
        "samples": listed(request, request.app[CONTEXT].history.samples),
    }
    return web.Response(body=encode(body), content_type="application/json")


def _told(context: AppContext) -> bytes:
    return b"event: report\ndata: %s\n\n" % encode(report(context))


def report(context: AppContext) -> dict[str, Any]:
    """`/health`, and beside it what only people ask for. Counts only grow while the node runs."""
    return {
        "at": time.time() * 1000,
        "startedAt": context.created * 1000,
        "version": __version__,
        "health": reports.health(context),
        "models": {id_: _model(it, context) for id_, it in context.node.models.items()},
    }


def _model(served: Served, context: AppContext) -> dict[str, Any]:
    config, cache = served.config, served.child.facts.cache
    first_token = context.request_metrics.by_model[config.id].first_token
    return {
        "aliases": config.aliases,
        "isDefault": config.default,
        "maxConcurrency": config.max_concurrency,
        "maxQueue": config.max_queue,
        "firstToken": {"count": first_token.count, "seconds": first_token.total},
        "kvBytes": served.running_kv_bytes,
        "cacheBytes": cache.bytes if cache else 0,
        "cacheLimitBytes": cache.capacity if cache else int(config.cache_bytes),
        "cacheEntries": cache.entries if cache else 0,
        "cacheWarmed": cache.warmed if cache else 0,
        "restartsBy": {event.value: n for event, n in served.child.restarts_by.items()},
    }
