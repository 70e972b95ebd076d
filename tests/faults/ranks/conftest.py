"""A node with a model over one, two and three processes, for the tests of a file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.faults.ranks.harness import BODIES, SECTIONS, SUPERVISOR, streams
from tests.processes import RunningNode, eventually, has_ended, running_node
from tests.synthetic_models import make

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("pipelined", tmp_path_factory.mktemp("models") / "pipelined")


@pytest.fixture(scope="module")
def node(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node, of which nothing is left at the end."""
    with running_node(
        tmp_path_factory.mktemp("ranks"),
        dict.fromkeys(SECTIONS, folder),
        supervisor=SUPERVISOR,
        extra=SECTIONS,
    ) as running:
        eventually(lambda: running.model("one")["state"] == "ready")
        yield running
        left = running.children()
        running.stop()
        eventually(lambda: all(map(has_ended, left)))


@pytest.fixture(scope="module")
def expected(node: RunningNode) -> list[str]:
    texts = asyncio.run(streams(node, "one", BODIES))
    assert len(texts[0].split()) > 60
    return texts
