"""Push to the dashboard what it shows: the node's report once a second and at every event.

Each reader has a stream of its own: events as they come, and after each of them, or after a second
without any, all figures. Figures are read when they are sent, from the sources of `/health` and
`/metrics`, so a node without readers spends nothing on them.

[front]
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mlx_worker import __version__
from mlx_worker.api.admin import reports
from mlx_worker.api.admin.event_stream import entries_after, stream_entries
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dashboard.history import HISTORY, SAMPLE_INTERVAL
from mlx_worker.api.middleware.responses import json_response
from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from aiohttp import web

    from mlx_worker.api.context import AppContext
    from mlx_worker.supervisor.model_status import ModelStatus

REPORT_INTERVAL: Final = 1.0
"""Seconds between two reports while nothing happens."""


async def dashboard_stream(request: web.Request) -> web.StreamResponse:
    """Serve `GET /admin/watch`: the events after `?after=`, and `report` events between them."""
    context = request.app[CONTEXT]
    report_event = partial(_report_event, context)
    return await stream_entries(request, context.node.events, REPORT_INTERVAL, report_event)


async def history(request: web.Request) -> web.Response:
    """Serve `GET /admin/history`: samples, the oldest first; with `?after=ID` the newer ones."""
    samples = entries_after(request, request.app[HISTORY].samples)
    return json_response({"every": SAMPLE_INTERVAL, "samples": samples})


def _report_event(context: AppContext) -> bytes:
    return b"event: report\ndata: %s\n\n" % encode(report(context))


def report(context: AppContext) -> dict[str, Any]:
    """Return `/health` and more figures for people. Counters only grow while the node runs."""
    return {
        "at": time.time() * 1000,
        "startedAt": context.created * 1000,
        "version": __version__,
        "health": reports.health(context),
        "models": {id_: _model(model, context) for id_, model in context.model_statuses().items()},
    }


def _model(model: ModelStatus, context: AppContext) -> dict[str, Any]:
    config, cache = model.config, model.child.cache
    first_token = context.request_metrics.by_model[config.id].first_token
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
