"""The events of a node: each one once in the log, and kept for the dashboard and the commands.

Kinds: `state` (of a child), `crash`, `resume`, `poison` (a request given up), `weights changed` (an
answer that no process can continue), `package replaced` (the node has to be restarted), `no room`,
`evict`, `prompt parted` (from the last one of its session), `pressure`, `memory limit`, `reload`,
`drain`, `pause` (no process ran), `level` (of the log), `outage` (no model served for long),
`loop held` (a path blocked the event loop), `folder` (a warning about a model's folder), `kv
events` (are published, or why not).

[front]
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import msgspec

from mlx_worker.logs import Entry
from mlx_worker.supervisor.ring_buffer import RingBuffer

log = logging.getLogger(__name__)

KEPT: Final = 1000
"""Events. A child that ends again and again makes about ten each time."""

LOGGED_ELSEWHERE: Final = frozenset({"lines"})
"""Facts that are in the log already, each line by itself."""


class NodeEvent(msgspec.Struct, frozen=True):
    """One event. `at` is in ms since the epoch; `model` is "" for the whole node."""

    at: float
    kind: str
    model: str
    facts: dict[str, Any]


class EventLog(RingBuffer[NodeEvent]):
    """The last events of a node."""

    def __init__(self) -> None:
        super().__init__(KEPT)

    def record(
        self, kind: str, model: str = "", /, *, level: int = logging.INFO, **facts: Any
    ) -> None:
        """Log an event and keep it."""
        logged = {name: fact for name, fact in facts.items() if name not in LOGGED_ELSEWHERE}
        log.log(level, Entry(kind, **({"model": model} if model else {}), **logged))
        self.add(NodeEvent(time.time() * 1000, kind, model, facts))
