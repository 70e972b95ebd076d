"""Report what the dashboard shows: `/health`, and more figures for people.

Figures are read when a report is sent, from the sources of `/health` and `/metrics`, so a node
without readers spends nothing on them. Readers that are due at the same time share the bytes.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from mlx_worker import __version__
from mlx_worker.api.admin import disk_report, reports
from mlx_worker.api.admin.health_report import next_try_ms
from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.dashboard.recent_figures import RecentFigures
    from mlx_worker.supervisor.model_status import ModelStatus

MAX_AGE: Final = 0.1
"""Seconds within which readers get the same bytes, unless something has happened since."""


class DashboardEvents:
    """Formats the events `report` and `requests` of one node, for all readers."""

    def __init__(
        self,
        context: AppContext,
        recent: RecentFigures,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._recent = recent
        self._report = _SharedBytes(clock)
        self._requests = _SharedBytes(clock)

    def report(self) -> bytes:
        """Return a `report` event that is newer than the last event of the node."""
        newest = self._context.node.events.newest
        return self._report.get(newest, self._format_report)

    @property
    def requests_version(self) -> int | None:
        """Return what changes with the table of requests; None while rows change by themselves."""
        table = self._context.request_table
        return table.changes if table.is_idle else None

    def requests(self) -> bytes:
        """Return a `requests` event that is newer than the last begin or end of a request."""
        return self._requests.get(self._context.request_table.changes, self._format_requests)

    def _format_report(self) -> bytes:
        return b"event: report\ndata: %s\n\n" % encode(report(self._context, self._recent))

    def _format_requests(self) -> bytes:
        return b"event: requests\ndata: %s\n\n" % encode(self._context.request_table.rows())


DASHBOARD_EVENTS: web.AppKey[DashboardEvents] = web.AppKey("dashboard_events", DashboardEvents)


class _SharedBytes:
    """Keeps bytes for a short time, as long as their version is the current one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._bytes = b""
        self._version = -1
        self._made_at = 0.0

    def get(self, version: int, make: Callable[[], bytes]) -> bytes:
        now = self._clock()
        if version != self._version or now - self._made_at > MAX_AGE:
            self._bytes, self._version, self._made_at = make(), version, now
        return self._bytes


def report(context: AppContext, recent: RecentFigures) -> dict[str, Any]:
    """Return `/health` and more figures for people. Counters only grow while the node runs."""
    return {
        "at": time.time() * 1000,
        "startedAt": context.created * 1000,
        "version": __version__,
        "draining": context.node.draining,
        "health": reports.health(context),
        "models": {
            id_: _model(model, context) | _restarts(model) | recent.figures(id_)
            for id_, model in context.model_statuses().items()
        },
    }


def _model(model: ModelStatus, context: AppContext) -> dict[str, Any]:
    config, cache = model.config, model.child.cache
    of_requests = context.request_metrics.by_model[config.id]
    first_token = of_requests.first_token
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
        "promptTokens": of_requests.prompt_tokens,
        "cachedTokens": of_requests.cached_tokens,
        "diskTokens": of_requests.disk_tokens,
        "memoryHits": of_requests.memory_hits,
        "diskHits": of_requests.disk_hits,
        "disk": disk_report.of_model(model, context),
        "runningPeak": model.running_peak,
    }


def _restarts(model: ModelStatus) -> dict[str, Any]:
    """Return what ended a model's processes, and what becomes of the model.

    `deaths` are the ends that count against the model now, or that it was given up after.
    """
    recent, allowed = model.recent_ends
    return {
        "restartsBy": {event.label: n for event, n in model.restarts_by.items()},
        "givenUp": model.given_up,
        "deaths": model.given_up_after if model.given_up else recent,
        "deathsAllowed": allowed,
        "nextTryAt": next_try_ms(model.next_try),
    }
