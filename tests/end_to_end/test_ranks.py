"""A model over two and three processes and over three hosts, beside the same in one process.

The hosts are this machine and two network namespaces.

The weights are float32: a split by layers computes the numbers of one process, and a split by heads
adds them in another order.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from tests.namespaces import host_namespaces
from tests.processes import RunningNode, eventually, running_node
from tests.sse import chat_events_from, chat_text
from tests.synthetic_models import WORDS, make

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import HostNamespace

pytestmark = pytest.mark.full

SPLITS: Final = {
    "two": "ranks = 2",
    "three": 'ranks = 3\nsplit = "pipeline"',
    "hosts": 'hosts = ["here", "studio2", "studio3"]\nsplit = "pipeline"',
}
"""Models of the node, and their sections; "one" is the same model in one process."""

RANKS: Final = {"two": 2, "three": 3, "hosts": 3}
STREAMS: Final = 32
SETTINGS: Final = f'dtype = "float32"\nmax_concurrency = {STREAMS}\nmax_queue = {STREAMS}\n'

A_WHILE: Final = 10
"""Events of a stream that have been read by then."""

SCHEMA: Final = {
    "type": "object",
    "properties": {"river": {"enum": ["Rhine", "Nile"]}, "miles": {"type": "integer"}},
    "required": ["river", "miles"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Answer:
    """What a client has of one stream."""

    text: str
    finish: str | None
    usage: tuple[int, int]
    cached: int
    is_hit: bool


@pytest.fixture(scope="module")
def hosts() -> Iterator[str]:
    """The sections of the other hosts; "" where none can be made."""
    with ExitStack() as stack:
        made: list[HostNamespace] = []
        with suppress(pytest.skip.Exception):
            made = stack.enter_context(host_namespaces(2))
        yield "".join(host.table(f"studio{number}") for number, host in enumerate(made, start=2))
        eventually(lambda: not any(host.processes() for host in made))


@pytest.fixture(scope="module")
def served(hosts: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = make("pipelined", tmp_path_factory.mktemp("models") / "pipelined")
    splits = {name: split for name, split in SPLITS.items() if hosts or name != "hosts"}
    sections = {name: SETTINGS + split for name, split in splits.items()}
    if hosts:
        sections["hosts"] += "\n" + hosts
    with running_node(
        tmp_path_factory.mktemp("node"),
        {"one": folder, **dict.fromkeys(splits, folder)},
        # An answer that begins early lacks `X-Cache-Hit`; 32 streams of three ranks may take 5 s.
        server="first_byte_timeout = 0",
        extra={"one": SETTINGS, **sections},
    ) as node:
        node.wait_until_ready()
        yield node


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest, hosts: str) -> str:
    name = str(request.param)
    if name == "hosts" and not hosts:
        pytest.skip("no hosts can be made here")
    return name


@pytest.fixture
def node(served: RunningNode, split: str) -> Iterator[RunningNode]:
    """The node, whose processes are those of before at the end of the test."""
    before = served.model(split)
    yield served
    after = served.model(split)
    assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"])


async def ask(session: aiohttp.ClientSession, url: str, model: str, body: dict[str, Any]) -> Answer:
    asked = {"model": model, "stream": True, "stream_options": {"include_usage": True}, **body}
    text, finish = "", None
    usage: dict[str, Any] = {}
    async with session.post(f"{url}/v1/chat/completions", json=asked) as response:
        assert response.status == 200, await response.text()
        is_hit = response.headers["X-Cache-Hit"] == "true"
        async for event in chat_events_from(response.content):
            text += chat_text(event)
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                finish = choice["finish_reason"] or finish
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Answer(
        text, finish, (usage["prompt_tokens"], usage["completion_tokens"]), cached, is_hit
    )


def answers(node: RunningNode, model: str, bodies: list[dict[str, Any]]) -> list[Answer]:
    """Ask all of this at once."""

    async def all_of() -> list[Answer]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            return await asyncio.gather(*(ask(session, node.url, model, body) for body in bodies))

    return asyncio.run(all_of())


def user(text: str, system: str = "") -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": text}]


def words(start: int, count: int) -> str:
    return " ".join(WORDS[(start + place) % len(WORDS)] for place in range(count))


def test_thirty_two_streams_at_once_say_what_one_process_says(
    node: RunningNode, split: str
) -> None:
    bodies = [
        {
            "messages": user(words(place, 3 + 17 * (place % 5))),
            "max_tokens": 20 + place,
            "temperature": place % 2 * 0.8,
            "seed": place,
        }
        for place in range(STREAMS)
    ]
    together, alone = (answers(node, model, bodies) for model in (split, "one"))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.usage for answer in together] == [answer.usage for answer in alone]
    assert len({answer.text for answer in together}) > STREAMS // 2


def test_prefix_that_was_read_is_not_read_again(node: RunningNode, split: str) -> None:
    system = f"You are an old river, one of {split}. {words(0, 120)}"
    chats = [{"messages": user(words(place, 4), system), "max_tokens": 24} for place in range(3)]
    found = [[answers(node, model, [body])[0] for body in chats] for model in (split, "one")]
    together, alone = found
    assert together == alone
    assert [answer.is_hit for answer in together] == [False, True, True]
    assert min(answer.cached for answer in together[1:]) > 100


def test_followers_of_a_prefix_wait_for_the_one_that_reads_it(
    node: RunningNode, split: str
) -> None:
    system = f"You are a tall tree. {words(30, 200)}"
    chats = [{"messages": user(words(place, 6), system), "max_tokens": 16} for place in range(6)]
    together, alone = (answers(node, model, chats) for model in (split, "one"))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert sum(answer.cached > 100 for answer in together) == len(chats) - 1


def test_warmed_prompt_is_found(node: RunningNode, split: str) -> None:
    system = f"You are a young mountain. {words(60, 120)}"
    asked = [{"messages": user("Hello", system), "max_tokens": 24}]
    warmed = node.ask("/v1/cluster/cache/warm", {"model": split, "systemPrompt": system})
    assert (warmed.status, warmed.json["tokens"] > 100) == (200, True)
    (together,), (alone,) = (answers(node, model, asked) for model in (split, "one"))
    assert (together.is_hit, together.text) == (True, alone.text)
    assert together.cached >= warmed.json["tokens"] - 1


def test_cancelled_streams_leave_the_others_alone(node: RunningNode, split: str) -> None:
    bodies = [{"messages": user(words(place, 9)), "max_tokens": 90} for place in range(6)]

    async def left(session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        asked = {"model": split, "stream": True, **body, "max_tokens": 4000}
        async with session.post(f"{node.url}/v1/chat/completions", json=asked) as response:
            events = 0
            async for _ in chat_events_from(response.content):
                events += 1
                if events == A_WHILE:
                    return

    async def some_leave() -> list[Answer]:
        async with aiohttp.ClientSession() as session:
            stay = [ask(session, node.url, split, body) for body in bodies[::2]]
            leave = [left(session, body) for body in bodies[1::2]]
            stayed, _ = await asyncio.gather(asyncio.gather(*stay), asyncio.gather(*leave))
            return stayed

    stayed = asyncio.run(some_leave())
    eventually(lambda: node.model(split)["running"] == 0)
    alone = answers(node, "one", bodies[::2])
    assert [answer.text for answer in stayed] == [answer.text for answer in alone]


def test_structured_output_is_the_same_json(node: RunningNode, split: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "river", "schema": SCHEMA}}
    bodies = [
        {
            "messages": user(words(place, 5)),
            "max_tokens": 60,
            "temperature": 0.9,
            "seed": place,
            "response_format": form,
        }
        for place in range(4)
    ]
    together, alone = (answers(node, model, bodies) for model in (split, "one"))
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    for answer in together:
        if answer.finish == "stop":
            assert set(json.loads(answer.text)) == {"river", "miles"}


def test_health_has_an_entry_for_each_rank(node: RunningNode, split: str) -> None:
    """What counts is what is held on this host: all ranks, or the first of several hosts."""
    eventually(lambda: len(node.model(split)["ranks"]) == RANKS[split])
    entry, alone = node.model(split), node.model("one")
    assert entry["speculation"]["off"] == "several processes compute the model"
    assert entry["cache"]["disk"]["off"] == "several processes compute the model"
    (of_token,) = (part["bytes"] for part in entry["memory"]["kv"]["perToken"])
    (of_one,) = (part["bytes"] for part in alone["memory"]["kv"]["perToken"])
    held = 1 if split == "hosts" else RANKS[split]
    assert of_token == of_one * held / RANKS[split]
    weights = [of["memory"]["weightBytes"] for of in (entry, alone)]
    assert weights[0] >= weights[1] * held / RANKS[split]
    resident = [rank["residentBytes"] for rank in entry["ranks"][:held]]
    assert sum(resident) == pytest.approx(entry["memory"]["residentBytes"], rel=0.1)
