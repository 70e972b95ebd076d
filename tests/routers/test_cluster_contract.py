"""A router of a cluster in front of two real nodes: what the nodes tell the router, and do.

The router polls, places and checks as the contract of a node has it (`cluster_router`). One of the
two base URLs ends in `/v1`.
"""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING, Final

import aiohttp
import pytest

from tests.processes import eventually, stopped
from tests.rounds import SEED, rounds
from tests.routers.agents import (
    SYSTEM,
    Agent,
    Tally,
    kill_in_the_middle,
    talk,
)
from tests.routers.cluster_router import ClusterRouter, KnownNode, known_nodes
from tests.routers.fleet import MODEL, Node, two_nodes, written_config
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.routers.table import Table

AGENTS: Final = 6
TURNS: Final = rounds(24, 60, 300)
POLL_EVERY: Final = 0.2
"""Seconds. Routers take five and more; the shorter pause lets a short test see many polls."""

SYSTEMS: Final = (SYSTEM, " ".join(WORDS[16:32]))
ROW: Final = "contract"


@pytest.fixture(scope="module")
def started(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    with two_nodes(tmp_path_factory.mktemp("nodes"), tiny) as nodes:
        yield nodes


@pytest.fixture
def nodes(started: tuple[Node, Node]) -> tuple[Node, Node]:
    """Two nodes that serve, whatever was done to them before."""
    for node in started:
        if node.running is None:
            node.start()
    return started


@contextlib.asynccontextmanager
async def router_of(nodes: tuple[Node, Node]) -> AsyncIterator[ClusterRouter]:
    """A router with what `router-config` prints."""
    file = written_config("cluster", [node.now.url for node in nodes])
    async with aiohttp.ClientSession() as client:
        yield ClusterRouter(known_nodes(file), client, MODEL)


def agents_of(router: ClusterRouter, tally: Tally) -> list[Agent]:
    return [
        Agent(router.ask, tally, Random(SEED * 1000 + i), SYSTEMS[i % len(SYSTEMS)])
        for i in range(AGENTS)
    ]


@pytest.mark.full
async def test_a_router_places_by_what_nodes_report(nodes: tuple[Node, Node]) -> None:
    async with router_of(nodes) as router:
        one, two = router.nodes

        async def chosen(session: str = "new", system: str = "a new prompt") -> KnownNode:
            await router.poll()
            return router.choose(session, system)

        assert await chosen() is one, "both are alike"
        nodes[1].now.ask("/cache/warm", {"system_prompt": SYSTEM})
        assert await chosen(system=SYSTEM) is two, "the prompt is resident there"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "say more"}]
        turn = await router.ask(messages, "known")
        assert turn.headers["X-Cache-Hit"] == "true"
        assert await chosen("known") is two, "the session is there, whatever its prompt"

        with stopped(nodes[0].now.child(MODEL)):
            asking = asyncio.create_task(router.ask(messages[1:], "other"))
            while one.load == 0 and not asking.done():
                await router.poll()
            assert await chosen() is two, "a request is in flight at the first node"
            assert one.can_serve, "the node answers while its model hangs"
        await asking

        nodes[0].now.ask(f"/admin/models/{MODEL}/unload", method="POST")
        assert await chosen() is two, "the model is not in memory at the first node"
        assert one.can_serve
        assert (await router.ask(messages[1:], "last")).finish
        nodes[0].now.ask(f"/admin/models/{MODEL}/load", method="POST")
        nodes[0].now.wait_until_ready()


@pytest.mark.full
async def test_turns_keep_the_contract_and_a_killed_node_fails_only_what_ran(
    nodes: tuple[Node, Node], table: Table
) -> None:
    tally, after = Tally(), Tally()
    async with router_of(nodes) as router, router.following(POLL_EVERY, SYSTEMS):
        had = [node.requests() for node in nodes]
        agents = agents_of(router, tally)
        await talk(agents, lambda: tally.turns >= TURNS // 2)
        each = [node.requests() - n for node, n in zip(nodes, had, strict=True)]
        for agent in agents:
            agent.tally = after
        killed = await kill_in_the_middle(agents, after, nodes[0], TURNS // 2)
        await router.poll()
        assert [node.can_serve for node in router.nodes] == [False, True]
    beyond = [reason for number, reason in after.failures if number not in killed]
    table.fill(
        ROW,
        {
            "turns": tally.turns + after.turns,
            "at the holder": f"{tally.share:.1%} of {tally.later}",
            "at each node": " + ".join(map(str, each)),
            "kill: failed in flight": f"{len(after.failures) - len(beyond)} of {len(killed)}",
            "kill: failed beyond": len(beyond),
            "streams, usage": f"whole; {router.checked.total()} answers checked",
            "headers": "as sent",
            "session at the node": "yes",
        },
    )
    assert tally.failures == []
    assert tally.share == 1, f"{tally.held} of {tally.later} turns"
    assert all(each), "both nodes had sessions"
    assert beyond == []
    read = {"models", "health", "cache", "warm", "/responses", "/chat/completions"}
    assert read <= router.checked.keys(), router.checked


@pytest.mark.full
async def test_both_nodes_are_upgraded_behind_a_router_that_polls(
    nodes: tuple[Node, Node], table: Table
) -> None:
    tally = Tally()
    upgraded = asyncio.Event()
    async with router_of(nodes) as router, router.following(POLL_EVERY, SYSTEMS):

        def upgrade(node: Node) -> None:
            node.stop()
            node.start()
            eventually(lambda: node.requests() > 0)

        async def upgrade_both() -> None:
            try:
                for node in nodes:
                    await asyncio.to_thread(upgrade, node)
            finally:
                upgraded.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(upgrade_both())
            group.create_task(talk(agents_of(router, tally), upgraded.is_set))
    table.fill(ROW, {"upgrade: turns": tally.turns, "upgrade: failed": len(tally.failures)})
    assert tally.failures == []
