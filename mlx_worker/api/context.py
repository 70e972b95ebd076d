"""What handlers reach for: the node, its ledgers and counts, the moment it all began. [front]"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aiohttp import web

if TYPE_CHECKING:
    from mlx_worker.api.admin.log_buffer import OwnLog
    from mlx_worker.api.admin.reload import Reload
    from mlx_worker.api.dashboard.history import History
    from mlx_worker.api.metrics.counters import Traffic
    from mlx_worker.api.metrics.loop_lag import Lag
    from mlx_worker.api.metrics.tracing import Traces
    from mlx_worker.health import Ledger
    from mlx_worker.supervisor.node import Node


@dataclass(frozen=True)
class Front:
    """One running front. `ledger` is the node's, `ledgers` are the models'.

    `traces` is None where they go nowhere. `reasoning_summaries` is the configuration's.
    `addresses` are the URLs that the node listens at.
    """

    node: Node
    ledger: Ledger
    ledgers: dict[str, Ledger]
    reload: Reload
    traffic: Traffic
    lag: Lag
    own_log: OwnLog
    history: History
    traces: Traces | None
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

FRONT: web.AppKey[Front] = web.AppKey("front", Front)
