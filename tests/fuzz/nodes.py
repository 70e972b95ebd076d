"""A node to fuzz: one real child with a tiny model, short answers, and what must not change."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from tests.processes import eventually, running_node
from tests.rounds import rounds
from tests.synthetic_models import make_caller

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.processes import RunningNode

SHORT = 100
COUNT = rounds(SHORT, SHORT, 5000)
"""Fuzzed bodies in all; what else is fuzzed goes by it."""

IN_FULL = COUNT > SHORT

GROWTH = 32 << 20
"""Bytes that a front may take more after thousands of bodies of any size: its allocator's."""

MODEL = "caller"

SETTINGS = "context_length = 256\nrequest_timeout = 50\n[models.defaults]\nmax_tokens = 4\n"
"""Whatever a request asks for, it is over soon."""


@contextlib.contextmanager
def fuzzed_node(folder: Path, *, server: str = "") -> Iterator[RunningNode]:
    """Its model knows tools and reasoning."""
    models = {MODEL: make_caller(folder / MODEL)}
    with running_node(folder, models, server=server, extra=SETTINGS) as node:
        node.wait_until_ready()
        yield node


def _is_idle(node: RunningNode) -> bool:
    """What a client has left takes a moment to end."""
    model = node.model(MODEL)
    return bool(model["running"] == model["queueDepth"] == 0)


@dataclass(frozen=True)
class Standing:
    """What a request may not change, and the front's memory in bytes."""

    pid: int
    restarts: int
    resident: int

    @classmethod
    def of(cls, node: RunningNode) -> Standing:
        eventually(lambda: _is_idle(node))
        model = node.model(MODEL)
        resident = psutil.Process(node.process.pid).memory_info().rss
        return cls(model["pid"], model["restarts"], resident)

    def grown(self, before: Standing) -> int:
        """How much since then. Asserts that it is the same child."""
        assert (self.pid, self.restarts) == (before.pid, before.restarts)
        return self.resident - before.resident
