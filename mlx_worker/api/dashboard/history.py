"""The last hour in samples, for the page's charts: taken from counts that are there anyway.

One every ten seconds, whether or not anybody looks: it costs some microseconds, and who comes after
the trouble wants to see what was before. [front]
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgspec

from mlx_worker.histogram import quantile
from mlx_worker.supervisor.ring_buffer import Ring

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from mlx_worker.api.metrics.counters import RequestMetrics
    from mlx_worker.histogram import Cumulative
    from mlx_worker.supervisor.node import Node, Served

SAMPLE_INTERVAL: Final = 10.0
"""Seconds between two samples."""

MAX_SAMPLES: Final = 360
"""Samples: an hour."""


class ModelSample(msgspec.Struct, frozen=True, rename="camel"):
    """One model between two samples.

    `first_token_*`: seconds to the first token, by the histogram's buckets; None where none came.
    `running` and `queued` are as of the sample, `resident_bytes` too (0 without a process).
    """

    tokens_per_second: float
    first_token_p50: float | None
    first_token_p95: float | None
    running: int
    queued: int
    resident_bytes: int


class HistorySample(msgspec.Struct, frozen=True):
    """All models at a moment, in ms since the epoch."""

    at: float
    models: dict[str, ModelSample]


@dataclass(frozen=True, slots=True)
class _Counts:
    """What only grows: one model's tokens, and how often a first token took how long."""

    tokens: int
    first_token: Cumulative


class MetricsHistory:
    """The samples; a context in which they are taken. On the event loop's thread."""

    def __init__(
        self,
        node: Node,
        request_metrics: RequestMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.samples: Ring[HistorySample] = Ring(MAX_SAMPLES)
        self._node = node
        self._request_metrics = request_metrics
        self._clock = clock
        self._since = clock()
        self._previous_counts: dict[str, _Counts] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._arm()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_INTERVAL, self._take_and_rearm)

    def _take_and_rearm(self) -> None:
        self.take()
        self._arm()

    def take(self) -> None:
        """A sample of what has come since the last one."""
        now = self._clock()
        seconds, self._since = now - self._since, now
        counts = {id_: self._counts(id_, it) for id_, it in self._node.models.items()}
        models = {
            id_: _sample(it, self._previous_counts.get(id_), counts[id_], seconds)
            for id_, it in self._node.models.items()
        }
        self._previous_counts = counts
        self.samples.add(HistorySample(time.time() * 1000, models))

    def _counts(self, id_: str, served: Served) -> _Counts:
        first_token = tuple(self._request_metrics.by_model[id_].first_token.cumulative())
        return _Counts(served.child.pace.tokens, first_token)


def _sample(served: Served, before: _Counts | None, now: _Counts, seconds: float) -> ModelSample:
    first = now.first_token
    tokens = now.tokens
    if before is not None:
        pairs = zip(first, before.first_token, strict=True)
        first = tuple((bound, n - earlier) for (bound, n), (_, earlier) in pairs)
        tokens -= before.tokens
    pong = served.child.facts.pong
    return ModelSample(
        tokens_per_second=tokens / seconds if seconds > 0 else 0.0,
        first_token_p50=quantile(first, 0.5),
        first_token_p95=quantile(first, 0.95),
        running=served.admission.running,
        queued=served.admission.queued,
        resident_bytes=pong.resident_bytes if pong else 0,
    )
