"""Expose the node's figures as Prometheus metrics, formatted only when Prometheus asks.

A request's own path only counts plain numbers. What `/health` also reports is read from the source
that `/health` reads.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mlx_worker.api.admin.prometheus import vllm_compat
from mlx_worker.api.admin.prometheus.disk_families import disk_families
from mlx_worker.api.admin.prometheus.memory_families import cache_families, memory_families
from mlx_worker.api.admin.prometheus.node_families import node_families
from mlx_worker.api.admin.prometheus.process_families import process_families, recovery_families
from mlx_worker.api.admin.prometheus.request_families import (
    latency_families,
    outcome_families,
    queue_families,
    token_families,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from mlx_worker.api.context import AppContext


def render_metrics(context: AppContext, accept: str) -> tuple[bytes, str]:
    """Return the metrics in the format for this Accept header, and their Content-Type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_NodeCollector(context))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _NodeCollector(Collector):
    """Collects every metric of one node."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    def describe(self) -> list[Metric]:
        """Return nothing: the registry has no other collector that could clash with this one."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families."""
        context = self._context
        yield from node_families(context)
        yield from outcome_families(context)
        yield from queue_families(context)
        yield from latency_families(context)
        yield from token_families(context)
        yield from process_families(context)
        yield from recovery_families(context)
        yield from cache_families(context)
        yield from memory_families(context)
        yield from disk_families(context)
        yield from vllm_compat.families(context)
