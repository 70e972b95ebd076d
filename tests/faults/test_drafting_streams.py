"""The real child is killed at every forward pass of two streams that draft, and no client can tell.

A greedy and a sampled stream bring their own answers as predictions, or have a draft model, so that
most passes are wide.
They are compared with the same requests to a node that drafts nothing and was left alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
import pytest

from tests.faults.failing_harness import running_failing_node, set_fault
from tests.faults.failing_model import Fault
from tests.faults.test_every_token import MESSAGES, Heard, is_another
from tests.processes import RunningNode, eventually, running_node
from tests.rounds import rounds
from tests.sse import events_from

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full

TOKENS: Final = 72
PASSES: Final = 2 + TOKENS // 8
"""The least number of passes: two prompts are read, and no pass is wider than eight tokens."""
STRIDE: Final = rounds(3, 3, 1)
BODIES: Final[list[dict[str, Any]]] = [
    {"temperature": 0},
    {"temperature": 0.9, "top_p": 0.95, "seed": 11},
]
ASKED: Final = {
    "messages": MESSAGES,
    "max_tokens": TOKENS,
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "ignore_eos": True,
}


async def streams(url: str, predictions: list[str]) -> list[Heard]:
    """Read both streams at once; "" is no prediction."""
    heard = [Heard() for _ in BODIES]

    async def read(body: dict[str, Any], prediction: str, into: Heard) -> None:
        predicted = {"prediction": {"type": "content", "content": prediction}} if prediction else {}
        async with session.post(
            f"{url}/v1/chat/completions", json=ASKED | body | predicted
        ) as response:
            assert response.status == 200, await response.text()
            async for event in events_from(response.content):
                into.add(event.data)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*map(read, BODIES, predictions, heard))
    return heard


@pytest.fixture(scope="module")
def expected(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Heard]:
    folder = tmp_path_factory.mktemp("plain")
    with running_node(folder, {"tiny": tiny}, extra='speculation = "off"') as node:
        node.wait_until_ready()
        heard = asyncio.run(streams(node.url, ["", ""]))
    assert [len(stream.tokens) for stream in heard] == [TOKENS, TOKENS]
    return heard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drafting")


@pytest.fixture(scope="module")
def drafting(tiny: Path, folder: Path) -> Iterator[RunningNode]:
    with running_failing_node("tiny", tiny, folder, drafts=True) as node:
        yield node


class Served(NamedTuple):
    """A node, and the folder by which its model is told to fail."""

    node: RunningNode
    folder: Path


def assert_same(heard: list[Heard], expected: list[Heard]) -> None:
    for mine, theirs in zip(heard, expected, strict=True):
        assert mine.text == theirs.text
        assert mine.tokens == theirs.tokens
        assert (mine.finish, mine.counts, mine.done) == (theirs.finish, theirs.counts, True)


@pytest.mark.alone
def test_node_drafts_and_counts_what_was_right(
    drafting: RunningNode, expected: list[Heard]
) -> None:
    heard = asyncio.run(streams(drafting.url, [stream.text for stream in expected]))
    assert_same(heard, expected)
    for stream in heard:
        assert stream.usage["completion_tokens_details"]["accepted_prediction_tokens"] > TOKENS / 4
    speculation = drafting.model("tiny")["speculation"]
    assert speculation["off"] == ""
    assert next((cost["rows"], len(cost["ms"])) for cost in speculation["passes"]) == (1, 4)
    eventually(lambda: drafting.model("tiny")["speculation"]["acceptedTokens"] > TOKENS / 4)


@pytest.mark.parametrize("number", range(0, PASSES, STRIDE))
def test_child_killed_at_a_pass_is_not_heard_of(
    drafting: RunningNode, folder: Path, expected: list[Heard], number: int
) -> None:
    pid = drafting.model("tiny")["pid"]
    set_fault(folder, Fault(where="pass", at=number))
    heard = asyncio.run(streams(drafting.url, [stream.text for stream in expected]))
    assert_same(heard, expected)
    eventually(lambda: is_another(drafting, pid))


@pytest.fixture(scope="module")
def with_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("draft-model")
    with running_failing_node("tiny", tiny, folder, drafts=True, extra=f'draft = "{tiny}"') as node:
        yield Served(node, folder)


@pytest.mark.alone
def test_node_asks_its_draft_model(with_model: Served, expected: list[Heard]) -> None:
    def has_accepted() -> bool:
        assert_same(asyncio.run(streams(with_model.node.url, ["", ""])), expected)
        drafted = with_model.node.model("tiny")["speculation"]["draftModel"]
        assert drafted["off"] == ""
        return bool(drafted["acceptedTokens"] > TOKENS / 4)

    eventually(has_accepted)


@pytest.mark.parametrize("number", range(0, PASSES, STRIDE))
def test_child_with_a_draft_model_killed_at_a_pass_is_not_heard_of(
    with_model: Served, expected: list[Heard], number: int
) -> None:
    node = with_model.node
    pid = node.model("tiny")["pid"]
    set_fault(with_model.folder, Fault(where="pass", at=number))
    assert_same(asyncio.run(streams(node.url, ["", ""])), expected)
    eventually(lambda: is_another(node, pid))
