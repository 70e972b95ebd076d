"""Real routers in front of two real nodes: sessions stay, a node dies, both nodes are upgraded.

Each router runs with what `mlx-worker router-config` printed, unchanged. A router that cannot be
installed here is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

import aiohttp
import pytest

from tests.clients.prefixes import INSTALL_DEADLINE, NotInstalled
from tests.rounds import SEED, rounds
from tests.routers.agents import (
    SYSTEM,
    Agent,
    Broken,
    Tally,
    ask,
    kill_in_the_middle,
    talk,
)
from tests.routers.fleet import KINDS, Fleet, Kind, Node, fleet
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from tests.routers.table import Table

pytestmark = [pytest.mark.routers, pytest.mark.timeout(INSTALL_DEADLINE + 600)]

AGENTS: Final = 6
TURNS: Final = rounds(60, 60, 300)
LEAST_AT_HOLDER: Final = 0.95
HEADERS: Final = ("X-Cache-Hit", "X-Model", "X-Session-Id")
"""Headers of a node that a router has to pass on."""


@pytest.fixture(params=KINDS.values(), ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def behind(kind: Kind, tiny: Path, tmp_path: Path, wanted: str) -> Iterator[Fleet]:
    """Two nodes and the router."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(fleet(kind, tmp_path, tiny))
        except NotInstalled as error:
            if wanted == "all":
                raise
            pytest.skip(f"{kind.name} cannot be installed here: {error}")
        yield found


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that reuses no connection: what a router loses of one is its own affair."""
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as client:
        yield client


async def reach(client: aiohttp.ClientSession, node: Node, behind: Fleet) -> None:
    """Ask through the router, each time something else, until this node has had a request.

    Some routers send a request that is like no other to the first node that has nothing to do. So
    several are asked at once.
    """
    before = node.requests()
    random = Random(SEED)

    async def ask_something() -> None:
        message = {"role": "user", "content": " ".join(random.choices(WORDS, k=40))}
        with contextlib.suppress(Broken):
            await ask(client, [message], f"reach-{random.getrandbits(64):x}")

    for _ in range(300):
        await asyncio.gather(*(ask_something() for _ in range(4)))
        if node.requests() > before:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the router does not reach {node.now.url}; {behind.said()}")


def agents_of(client: aiohttp.ClientSession, tally: Tally) -> list[Agent]:
    return [Agent(partial(ask, client), tally, Random(SEED * 1000 + i)) for i in range(AGENTS)]


async def test_turns_stay_at_their_node_and_a_killed_node_fails_only_what_ran(
    kind: Kind, behind: Fleet, table: Table
) -> None:
    async with client_of(behind.url) as client:
        for node in behind.nodes:
            await reach(client, node, behind)
        await streams_are_those_of_a_node(client, behind)
        had = [node.requests() for node in behind.nodes]
        tally = Tally()
        agents = agents_of(client, tally)
        await talk(agents, lambda: tally.turns >= TURNS // 2)
        assert tally.failures == [], behind.said()
        share, counted = tally.share, tally.later
        each = [node.requests() - n for node, n in zip(behind.nodes, had, strict=True)]

        after = Tally()
        for agent in agents:
            agent.tally = after
        killed = await kill_in_the_middle(agents, after, behind.nodes[0], TURNS // 2)
    beyond = [reason for number, reason in after.failures if number not in killed]
    passed_on = [name for name in HEADERS if all(has(kind, seen, name) for seen in tally.headers)]
    table.fill(
        kind.name,
        {
            "version": kind.version,
            "turns": tally.turns + after.turns,
            "at the holder": f"{share:.1%} of {counted}",
            "at each node": " + ".join(map(str, each)),
            "kill: failed in flight": f"{len(after.failures) - len(beyond)} of {len(killed)}",
            "kill: failed beyond": len(beyond),
            "streams, usage": "whole",
            "headers": "as sent" if not kind.header_prefix else f"{kind.header_prefix}…",
            "session at the node": "yes" if keeps_session(kind, agents) else "no",
        },
    )
    assert share >= LEAST_AT_HOLDER, f"{share} of {counted} turns; all: {tally}"
    assert beyond == [], behind.said()
    assert after.turns >= TURNS // 2
    assert passed_on == list(HEADERS)
    assert keeps_session(kind, agents) == kind.keeps_session


def has(kind: Kind, headers: Mapping[str, str], name: str) -> bool:
    return kind.header_prefix + name.lower() in {header.lower() for header in headers}


def keeps_session(kind: Kind, agents: list[Agent]) -> bool:
    """True if nodes answered with the sessions that the agents have named."""
    name = (kind.header_prefix + "X-Session-Id").lower()
    seen = {
        value
        for headers in agents[0].tally.headers
        for header, value in headers.items()
        if header.lower() == name
    }
    return all(agent.session in seen for agent in agents)


async def streams_are_those_of_a_node(client: aiohttp.ClientSession, behind: Fleet) -> None:
    """See that the router passes a stream on as the node writes it."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "say more"}]
    async with client_of(behind.nodes[0].now.url) as direct:
        own = await ask(direct, messages, "direct")
    passed_on = await ask(client, messages, "routed")
    assert passed_on.text == own.text
    assert passed_on.finish == own.finish
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [passed_on.usage[name] for name in counts] == [own.usage[name] for name in counts]


async def test_both_nodes_are_upgraded_under_load_without_a_failed_turn(
    kind: Kind, behind: Fleet, table: Table
) -> None:
    tally = Tally()
    upgraded = asyncio.Event()
    async with client_of(behind.url) as client:
        for node in behind.nodes:
            await reach(client, node, behind)

        async def upgrade() -> None:
            try:
                for node in behind.nodes:
                    await asyncio.to_thread(node.stop)
                    await asyncio.to_thread(node.start)
                    await reach(client, node, behind)
            finally:
                upgraded.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(upgrade())
            group.create_task(talk(agents_of(client, tally), upgraded.is_set))
    table.fill(
        kind.name,
        {
            "version": kind.version,
            "upgrade: turns": tally.turns,
            "upgrade: failed": len(tally.failures),
        },
    )
    assert tally.failures == [], behind.said()
