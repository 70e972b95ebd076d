"""What has happened to the node: each thing once in the log, and kept for page and commands.

Kinds: `state` (a child's), `crash`, `resume`, `poison` (a request given up), `weights changed` (an
answer that no process can go on with), `package replaced` (the node has to be restarted), `no
room`, `evict`, `pressure`, `reload`, `drain`, `pause` (of the whole node: its processes did not
run), `level` (of the log), `outage` (no model served for long), `loop held` (a path held the event
loop), `folder` (what deserves a look in a model's folder). [front]
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import msgspec

from mlx_worker.logs import Entry
from mlx_worker.supervisor.ring_buffer import Ring

log = logging.getLogger(__name__)

KEPT: Final = 1000
"""Events. A child that ends again and again makes about ten a time."""

IN_THE_LOG: Final = frozenset({"lines"})
"""Facts that are in the log already, each line by itself."""


class Event(msgspec.Struct, frozen=True):
    """One thing that happened. `at` in ms since the epoch; `model` is "" for the whole node."""

    at: float
    kind: str
    model: str
    facts: dict[str, Any]


class Events(Ring[Event]):
    """The last events of a node."""

    def __init__(self) -> None:
        super().__init__(KEPT)

    def happened(
        self, kind: str, model: str = "", /, *, level: int = logging.INFO, **facts: Any
    ) -> None:
        """Log it and keep it."""
        told = {name: it for name, it in facts.items() if name not in IN_THE_LOG}
        log.log(level, Entry(kind, **({"model": model} if model else {}), **told))
        self.add(Event(time.time() * 1000, kind, model, facts))
