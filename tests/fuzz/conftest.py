"""What all fuzz has in common: a node with a real child, and proof that it took no harm."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from tests.processes import RunningNode, eventually, running_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

COUNT: Final = int(os.environ.get("MLX_WORKER_FUZZ", "0"))
"""How many bodies to try; 0: the short form."""

SEED: Final = int(os.environ.get("MLX_WORKER_FUZZ_SEED", "20261"))

IMPATIENT = """
idle_timeout = 0.5
body_timeout = 0.5
send_timeout = 5
"""
"""What is never completed ends soon; what is complete is not touched by it."""

GROWTH: Final = 24 << 20
"""Bytes that the front may grow by: buffers and caches find their size, a leak would not."""


@dataclass(frozen=True)
class State:
    """What must not change. `resident` is the front's, in bytes."""

    pid: int
    restarts: int
    resident: int

    @classmethod
    def of(cls, node: RunningNode) -> State:
        model = node.model("tiny")
        resident = psutil.Process(node.process.pid).memory_info().rss
        return cls(model["pid"], model["restarts"], resident)


@pytest.fixture(scope="module")
def node(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with a real child, which waits for nobody."""
    folder = tmp_path_factory.mktemp("fuzz")
    with running_node(folder, {"tiny": tiny}, server=IMPATIENT) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def watch(node: RunningNode) -> Callable[[], AbstractContextManager[None]]:
    """Wraps what is done to the node: the same child serves afterwards, and nothing has grown."""

    @contextlib.contextmanager
    def watched() -> Iterator[None]:
        before = State.of(node)
        yield
        eventually(lambda: node.model("tiny")["running"] == 0)
        after = State.of(node)
        memory = f"{before.resident >> 20} MB before, {after.resident >> 20} MB after"
        print(f"front: {memory}")  # noqa: T201  (what was seen is the point)
        assert (after.pid, after.restarts) == (before.pid, before.restarts)
        assert after.resident < before.resident + GROWTH
        assert node.ask("/health").json["status"] == "healthy"
        said = node.ask("/v1/completions", {"prompt": "hello", "max_tokens": 2})
        assert said.status == 200, said.body

    return watched
