"""The real child is killed at every decode step of two streams, and no client can tell.

A greedy and a sampled stream run in one batch, over HTTP. They are compared with the same requests
to a node that was left alone. The child kills itself before the step's logits are read: a kill from
outside would miss a fast child. Tokens are counted by their log-probabilities: one entry each.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.faults.failing_harness import running_failing_node, set_fault
from tests.faults.failing_model import Fault
from tests.processes import RunningNode, eventually
from tests.rounds import rounds
from tests.sse import DONE, events_from

TOKENS: Final = 60
STEPS: Final = TOKENS - 2
"""Steps in which both streams run: the first token comes from the prompt."""
STRIDE: Final = rounds(40, 4, 1)
"""At every step in `tox -e soak`, at every fourth in `tox -e full`."""

MESSAGES: Final = [
    {"role": "system", "content": "You are kind and brief."},
    {"role": "user", "content": "Tell me of rivers"},
]
BODIES: Final = [
    {"temperature": 0, "repetition_penalty": 1.2},
    {"temperature": 0.9, "top_p": 0.95, "seed": 11, "presence_penalty": 0.5},
]
ASKED: Final = {
    "messages": MESSAGES,
    "max_tokens": TOKENS,
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
}


@dataclass
class Heard:
    """What a client has of one stream so far."""

    text: str = ""
    tokens: list[str] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def add(self, event: Any) -> None:
        if event == DONE:
            self.done = True
            return
        assert "error" not in event, event
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.tokens += [
                item["token"] for item in (choice.get("logprobs") or {"content": []})["content"]
            ]
            self.finish = choice["finish_reason"] or self.finish

    @property
    def counts(self) -> tuple[int, int]:
        """Prompt and completion; what of the prompt was cached depends on what came before."""
        return self.usage["prompt_tokens"], self.usage["completion_tokens"]


async def streams(url: str) -> list[Heard]:
    """Read both streams at once."""
    heard = [Heard() for _ in BODIES]

    async def read(body: dict[str, Any], into: Heard) -> None:
        async with session.post(f"{url}/v1/chat/completions", json=ASKED | body) as response:
            assert response.status == 200, await response.text()
            async for event in events_from(response.content):
                into.add(event.data)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*map(read, BODIES, heard))
    return heard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restless")


@pytest.fixture(scope="module")
def restless(tiny: Path, folder: Path) -> Iterator[RunningNode]:
    with running_failing_node("tiny", tiny, folder) as node:
        yield node


@pytest.fixture(scope="module")
def expected(node: RunningNode) -> list[Heard]:
    heard = asyncio.run(streams(node.url))
    assert [item.usage["completion_tokens"] for item in heard] == [TOKENS, TOKENS]
    assert [len(item.tokens) for item in heard] == [TOKENS, TOKENS]
    assert heard[0].text != heard[1].text
    return heard


@pytest.mark.parametrize("step", range(STRIDE // 2, STEPS, STRIDE))
def test_a_child_killed_at_a_step_is_not_heard_of(
    restless: RunningNode, folder: Path, expected: list[Heard], step: int
) -> None:
    pid = restless.model("tiny")["pid"]
    before = last_event(restless)
    set_fault(folder, Fault(kind="killed", at=step))
    heard = asyncio.run(streams(restless.url))
    for mine, theirs in zip(heard, expected, strict=True):
        assert mine.text == theirs.text
        assert mine.tokens == theirs.tokens
        assert (mine.finish, mine.counts, mine.done) == (theirs.finish, theirs.counts, True)
    continued = continued_after(restless, before)
    assert 1 <= len(continued) <= len(BODIES)
    assert max(continued) <= step + 1
    eventually(lambda: is_another(restless, pid))


def is_another(node: RunningNode, pid: int) -> bool:
    entry = node.model("tiny")
    return bool(entry["state"] == "ready" and entry["pid"] != pid)


def last_event(node: RunningNode) -> int:
    events: list[dict[str, Any]] = node.ask("/admin/events").json["events"]
    return int(events[-1]["id"])


def continued_after(node: RunningNode, event: int) -> list[int]:
    """Return after how many tokens each stream was continued, in the events after `event`."""
    events: list[dict[str, Any]] = node.ask(f"/admin/events?after={event}").json["events"]
    return [entry["facts"]["after_tokens"] for entry in events if entry["kind"] == "resume"]
