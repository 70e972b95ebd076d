"""A process of a model ends at each of many tokens; and what ranks cost while nothing is asked."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.ranks.harness import (
    BODIES,
    TOKENS,
    Blow,
    Part,
    Strike,
    Watched,
    has_all,
    kill,
    parts_of,
    streams,
)
from tests.processes import eventually

if TYPE_CHECKING:
    import psutil

    from tests.processes import RunningNode

KILLS: Final = 20


@pytest.mark.full
@pytest.mark.parametrize(
    ("at", "name"),
    [*zip(range(1, TOKENS, TOKENS // KILLS), itertools.cycle(["rank 1", "rank 0", "keeper 1"]))],
)
def test_kill_at_any_token_loses_and_repeats_none(
    node: RunningNode, expected: list[str], at: int, name: str
) -> None:
    strike = Strike(node, Blow(Part("two", name), kill), at)
    watched = Watched(strike)
    assert asyncio.run(streams(node, "two", BODIES, watched)) == expected
    strike.check(watched, f"token {at} comes")


# --- what ranks cost while there is nothing to do ---


def switches(process: psutil.Process) -> tuple[list[int], list[int]]:
    """Context switches of the main thread, and of all others: waits, and preemptions."""
    of_main, of_others = [0, 0], [0, 0]
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        lines = dict(
            line.split(":", 1) for line in (thread / "status").read_text().splitlines() if line
        )
        counted = of_main if thread.name == str(process.pid) else of_others
        for place, kind in enumerate(("voluntary", "nonvoluntary")):
            counted[place] += int(lines[f"{kind}_ctxt_switches"])
    return of_main, of_others


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
@pytest.mark.full
def test_idle_rank_waits_in_one_system_call(node: RunningNode) -> None:
    """Only the thread that answers pings runs."""
    eventually(lambda: node.model("two")["state"] == "ready")
    eventually(lambda: has_all(node, "two", set()))
    rank = parts_of(node, "two")["rank 1"]
    asyncio.run(streams(node, "two", BODIES[:1]))
    _, of_others = switches(rank)
    eventually(lambda: switches(rank)[1] > of_others)
    of_main, of_others = switches(rank)
    asyncio.run(streams(node, "one", BODIES * 2))  # some seconds of work elsewhere
    eventually(lambda: switches(rank)[1] > of_others)
    assert switches(rank)[0] == of_main
