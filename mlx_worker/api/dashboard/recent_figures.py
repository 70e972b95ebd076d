"""Tell how fast each model has answered lately: latencies by percentile, and the speed of prefill.

The histograms of `/metrics` count from the start of the node. The difference to what they were some
minutes ago is what a person wants to see.

[front]
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.histogram import quantile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_worker.api.metrics.counters import RequestMetrics
    from mlx_worker.histogram import Histogram
    from mlx_worker.supervisor.node import Node

MAX_SNAPSHOTS: Final = 60
"""Ten minutes, with a snapshot at each sample of the history."""

PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class _BucketCounts:
    """One model's counts at a moment; of the histograms, the counts of their buckets."""

    histograms: Mapping[str, tuple[int, ...]]
    prefill_tokens: int
    prefill_seconds: float


_NOTHING: Final = _BucketCounts({}, 0, 0.0)


class RecentFigures:
    """Figures of each model since the oldest snapshot; since the start before there is one."""

    def __init__(self, node: Node, request_metrics: RequestMetrics) -> None:
        self._node = node
        self._request_metrics = request_metrics
        self._snapshots: deque[dict[str, _BucketCounts]] = deque(maxlen=MAX_SNAPSHOTS)

    def take_snapshot(self) -> None:
        """Keep the counts of now, and drop the oldest that are too many."""
        self._snapshots.append({id_: self._counts(id_) for id_ in self._node.models})

    def figures(self, id_: str) -> dict[str, Any]:
        """Return a model's `latency` in seconds and its prefill speed; None without values."""
        then = self._snapshots[0].get(id_, _NOTHING) if self._snapshots else _NOTHING
        metrics = self._request_metrics.by_model[id_]
        tokens = metrics.prefill_tokens - then.prefill_tokens
        seconds = metrics.prefill_seconds - then.prefill_seconds
        return {
            "latency": {
                name: _percentiles(histogram, then.histograms.get(name, ()))
                for name, histogram in self._histograms(id_).items()
            },
            "prefillTokensPerSecond": tokens / seconds if tokens and seconds > 0 else None,
        }

    def _counts(self, id_: str) -> _BucketCounts:
        metrics = self._request_metrics.by_model[id_]
        histograms = {name: one.counts() for name, one in self._histograms(id_).items()}
        return _BucketCounts(histograms, metrics.prefill_tokens, metrics.prefill_seconds)

    def _histograms(self, id_: str) -> dict[str, Histogram]:
        metrics = self._request_metrics.by_model[id_]
        return {
            "firstToken": metrics.first_token,
            "interToken": self._node.models[id_].child.token_stats.inter_token,
            "endToEnd": metrics.duration,
        }


def _percentiles(histogram: Histogram, then: tuple[int, ...]) -> dict[str, float | None]:
    added = histogram.since(then)
    return {name: quantile(added, share) for name, share in PERCENTILES.items()}
