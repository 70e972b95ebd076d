"""What handlers reach for: the node, its ledgers and counts, the moment it all began. [front]"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aiohttp import web

if TYPE_CHECKING:
    from mlx_worker.api.admin.log_buffer import LogBuffer
    from mlx_worker.api.admin.reload import ConfigReloader
    from mlx_worker.api.dashboard.history import MetricsHistory
    from mlx_worker.api.metrics.counters import RequestMetrics
    from mlx_worker.api.metrics.loop_lag import EventLoopLagMonitor
    from mlx_worker.api.metrics.tracing import RequestTracer
    from mlx_worker.health import RequestStats
    from mlx_worker.supervisor.node import Node


@dataclass(frozen=True)
class AppContext:
    """One running front. `ledger` is the node's, `ledgers` are the models'.

    `traces` is None where they go nowhere. `reasoning_summaries` is the configuration's.
    `addresses` are the URLs that the node listens at.
    """

    node: Node
    node_stats: RequestStats
    model_stats: dict[str, RequestStats]
    reload: ConfigReloader
    request_metrics: RequestMetrics
    loop_lag: EventLoopLagMonitor
    log_buffer: LogBuffer
    history: MetricsHistory
    tracer: RequestTracer | None
    reasoning_summaries: Literal["asked", "always"] = "asked"
    addresses: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))
    started: float = field(default_factory=time.monotonic)

    @property
    def uptime(self) -> float:
        """Return the seconds since the front started."""
        return time.monotonic() - self.started

    @staticmethod
    def now() -> int:
        """Seconds since the epoch, as OpenAI's `created` has them."""
        return int(time.time())


ADDRESSES: web.AppKey[tuple[str, ...]] = web.AppKey("addresses", tuple)
"""The URLs that the node listens at; `server` sets them before the application starts."""

CONTEXT: web.AppKey[AppContext] = web.AppKey("context", AppContext)
