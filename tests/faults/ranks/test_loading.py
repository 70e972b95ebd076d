"""The end and the stop of each process of a model that loads, and the end of the front."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.faults.ranks.harness import (
    A_FEW,
    BLOWS,
    BODIES,
    Blow,
    StrikeAtLoad,
    Watched,
    has_all,
    parts_of,
    stop,
    streams,
)
from tests.processes import eventually, has_ended, running_node

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes import RunningNode


@pytest.mark.full
@pytest.mark.parametrize("blow", BLOWS, ids=str)
def test_end_or_stop_of_any_process_while_loading_is_a_pause(
    node: RunningNode, expected: list[str], blow: Blow
) -> None:
    strike = StrikeAtLoad(node, blow, A_FEW)
    watched = Watched(strike)

    async def both() -> list[str]:
        texts, _ = await asyncio.gather(
            streams(node, blow.part.model, BODIES, watched), strike.follow()
        )
        return texts

    assert asyncio.run(both()) == expected
    strike.check(watched, "loading", restarts=2)


@pytest.mark.full
@pytest.mark.parametrize("is_loading", [False, True], ids=["ready", "loading"])
def test_end_of_the_front_ends_every_rank(
    folder: Path, tmp_path: Path, *, is_loading: bool
) -> None:
    with running_node(tmp_path, {"three": folder}, extra='ranks = 3\nsplit = "pipeline"') as node:
        if not is_loading:
            node.wait_until_ready()
        eventually(lambda: has_all(node, "three", set()))
        parts = parts_of(node, "three")
        stop(parts["rank 2"].pid)
        node.process.kill()
        eventually(lambda: all(map(has_ended, parts.values())))
