"""What the page shows, pushed: the node's report once a second and whenever something happens.

One stream a reader: events as they come, and after each of them, or a second without any, all
figures anew. They are read when they are sent, from where `/health` and `/metrics` read them:
nothing is done while nobody looks. [front]
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from mlx_worker import __version__
from mlx_worker.api.admin import reports
from mlx_worker.api.admin.event_stream import listed, live
from mlx_worker.api.context import FRONT
from mlx_worker.api.dashboard.history import EVERY

if TYPE_CHECKING:
    from mlx_worker.api.context import Front
    from mlx_worker.supervisor.model_status import ModelStatus

PERIOD: Final = 1.0
"""Seconds between two reports while nothing happens."""


async def watch(request: web.Request) -> web.StreamResponse:
    """`GET /admin/watch`: the events after `?after=`, and `report` events between them."""
    front = request.app[FRONT]
    return await live(request, front.node.events, PERIOD, partial(_told, front))


async def history(request: web.Request) -> web.Response:
    """`GET /admin/history`: the last hour's samples, the oldest first; `?after=ID` the newer."""
    body = {"every": EVERY, "samples": listed(request, request.app[FRONT].history.samples)}
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _told(front: Front) -> bytes:
    return b"event: report\ndata: %s\n\n" % msgspec.json.encode(report(front))


def report(front: Front) -> dict[str, Any]:
    """`/health`, and beside it what only people ask for. Counts only grow while the node runs."""
    return {
        "at": time.time() * 1000,
        "startedAt": front.created * 1000,
        "version": __version__,
        "health": reports.health(front),
        "models": {id_: _model(model.status(), front) for id_, model in front.node.models.items()},
    }


def _model(model: ModelStatus, front: Front) -> dict[str, Any]:
    config, cache = model.config, model.child.cache
    first_token = front.traffic.flows[config.id].first_token
    return {
        "aliases": config.aliases,
        "isDefault": config.default,
        "maxConcurrency": config.max_concurrency,
        "maxQueue": config.max_queue,
        "firstToken": {"count": first_token.count, "seconds": first_token.total},
        "kvBytes": model.running_kv_bytes,
        "cacheBytes": cache.bytes if cache else 0,
        "cacheLimitBytes": cache.capacity if cache else int(config.cache_bytes),
        "cacheEntries": cache.entries if cache else 0,
        "cacheWarmed": cache.warmed if cache else 0,
        "restartsBy": {event.value: n for event, n in model.restarts_by.items()},
    }
