"""Sample the last hour of each model for the charts of the dashboard.

A sample is taken every ten seconds whether or not the dashboard is open. It costs microseconds, and
a reader after a failure needs the time before the failure. All figures come from counters that
exist anyway.

[front]
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgspec
from aiohttp import web

from mlx_worker.api.dashboard.recent_figures import RecentFigures
from mlx_worker.histogram import quantile
from mlx_worker.supervisor.ring_buffer import RingBuffer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mlx_worker.api.metrics.counters import RequestMetrics
    from mlx_worker.histogram import Cumulative
    from mlx_worker.supervisor.model_status import ModelStatus
    from mlx_worker.supervisor.node import Node

SAMPLE_INTERVAL: Final = 10.0
"""Seconds between two samples."""

MAX_SAMPLES: Final = 360
"""An hour of samples."""


class ModelSample(msgspec.Struct, frozen=True, rename="camel"):
    """One model between two samples.

    `first_token_*` are seconds to the first token, by the histogram's buckets; None without a
    first token. `running`, `queued` and `resident_bytes` (0 without a process) are as of the
    sample. `running_peak` is the largest `running` since the last sample.
    """

    tokens_per_second: float
    first_token_p50: float | None
    first_token_p95: float | None
    running: int
    running_peak: int
    queued: int
    resident_bytes: int


class HistorySample(msgspec.Struct, frozen=True):
    """All models at one time, in ms since the epoch."""

    at: float
    models: dict[str, ModelSample]


@dataclass(frozen=True, slots=True)
class _ModelCounts:
    """One model's counters: its tokens, and the histogram of the times to its first tokens."""

    tokens: int
    first_token: Cumulative


class MetricsHistory:
    """Takes samples while the context is entered, on the event loop's thread."""

    def __init__(
        self,
        node: Node,
        request_metrics: RequestMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.samples: RingBuffer[HistorySample] = RingBuffer(MAX_SAMPLES)
        self.recent = RecentFigures(node, request_metrics)
        self._node = node
        self._request_metrics = request_metrics
        self._clock = clock
        self._sampled_at = clock()
        self._previous_counts: dict[str, _ModelCounts] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._schedule()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_INTERVAL, self._on_timer)

    def _on_timer(self) -> None:
        self.add_sample()
        self._schedule()

    def add_sample(self) -> None:
        """Add a sample of the time since the last one."""
        now = self._clock()
        seconds, self._sampled_at = now - self._sampled_at, now
        statuses = {id_: model.status() for id_, model in self._node.models.items()}
        counts = {id_: self._counts(id_, status) for id_, status in statuses.items()}
        samples = {
            id_: _sample(status, self._previous_counts.get(id_), counts[id_], seconds)
            for id_, status in statuses.items()
        }
        self._previous_counts = counts
        for model in self._node.models.values():
            model.admission.reset_peak()
        self.recent.take_snapshot()
        self.samples.add(HistorySample(time.time() * 1000, samples))

    def _counts(self, id_: str, model: ModelStatus) -> _ModelCounts:
        first_token = tuple(self._request_metrics.by_model[id_].first_token.cumulative())
        return _ModelCounts(model.generated_tokens, first_token)


HISTORY: web.AppKey[MetricsHistory] = web.AppKey("history", MetricsHistory)


def _sample(
    model: ModelStatus, before: _ModelCounts | None, now: _ModelCounts, seconds: float
) -> ModelSample:
    first_token = now.first_token
    tokens = now.tokens
    if before is not None:
        pairs = zip(first_token, before.first_token, strict=True)
        first_token = tuple((bound, count - earlier) for (bound, count), (_, earlier) in pairs)
        tokens -= before.tokens
    return ModelSample(
        tokens_per_second=tokens / seconds if seconds > 0 else 0.0,
        first_token_p50=quantile(first_token, 0.5),
        first_token_p95=quantile(first_token, 0.95),
        running=model.running,
        running_peak=model.running_peak,
        queued=model.queued,
        resident_bytes=model.child.resident_bytes or 0,
    )
