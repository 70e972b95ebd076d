"""Hold what endpoints need of the running node: its models, statistics and metrics.

[front]
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aiohttp import web

from mlx_worker.api.metrics.request_table import RequestTable

if TYPE_CHECKING:
    from mlx_worker.api.metrics.counters import RequestMetrics
    from mlx_worker.api.metrics.loop_lag import EventLoopLagMonitor
    from mlx_worker.api.metrics.tracing import RequestTracer
    from mlx_worker.health import RequestStats
    from mlx_worker.supervisor.model_status import ModelStatus
    from mlx_worker.supervisor.node import Node
    from mlx_worker.system.sleep_assertion import SleepAssertion


@dataclass(frozen=True, kw_only=True)
class AppContext:
    """The running node and its statistics; `tracer` is None without a collector of traces.

    `sleep_assertion` keeps a Mac awake; None: tests without one.

    `addresses` are the URLs that the node listens at. `created` is the start of the node in seconds
    since the epoch. `first_byte_timeout` is the configuration's, in seconds.
    """

    node: Node
    node_stats: RequestStats
    model_stats: dict[str, RequestStats]
    request_metrics: RequestMetrics
    loop_lag: EventLoopLagMonitor
    tracer: RequestTracer | None
    reasoning_summaries: Literal["asked", "always"]
    addresses: tuple[str, ...]
    sleep_assertion: SleepAssertion | None = None
    first_byte_timeout: float = 0.0
    request_table: RequestTable = field(default_factory=RequestTable)
    created: int = field(default_factory=lambda: int(time.time()))
    started: float = field(default_factory=time.monotonic)

    @property
    def uptime(self) -> float:
        """Return the seconds since the node started."""
        return time.monotonic() - self.started

    def model_statuses(self) -> dict[str, ModelStatus]:
        """Return a snapshot of each model, by its id."""
        return {id_: model.status() for id_, model in self.node.models.items()}

    @staticmethod
    def now() -> int:
        """Return the seconds since the epoch, as OpenAI's `created` has them."""
        return int(time.time())


ADDRESSES: web.AppKey[tuple[str, ...]] = web.AppKey("addresses", tuple)
"""The URLs that the node listens at; the server sets them before the application starts."""

CONTEXT: web.AppKey[AppContext] = web.AppKey("context", AppContext)
