"""The real child is killed at every token of a greedy and of a sampled stream; nobody can tell.

Both run in one batch, over HTTP, and are compared with the same requests to a node that was left
alone. Tokens are counted by their log-probabilities: one entry each.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest

from tests.processes import RunningNode, eventually, running_node
from tests.rounds import rounds

TOKENS: Final = 60
STRIDE: Final = rounds(20, 4, 1)
"""At every token in `tox -e soak`, at every fourth in the ordinary suite."""

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
RESTLESS: Final = "backoff_initial = 0\nmax_restarts = 100000"


@dataclass
class Heard:
    """What a client has of one stream so far."""

    text: str = ""
    tokens: list[str] = field(default_factory=list)
    finish: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def take(self, data: str) -> None:
        if data == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
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


async def streams(url: str, on_news: Callable[[list[Heard]], None]) -> list[Heard]:
    """Both streams at once; `on_news` sees what was heard after each piece of either."""
    heard = [Heard() for _ in BODIES]

    async def read(body: dict[str, Any], into: Heard) -> None:
        async with session.post(f"{url}/v1/chat/completions", json=ASKED | body) as response:
            assert response.status == 200, await response.text()
            on_news(heard)
            async for line in response.content:
                if line.startswith(b"data: "):
                    into.take(line.decode().removeprefix("data: ").strip())
                    on_news(heard)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*map(read, BODIES, heard))
    return heard


@pytest.fixture(scope="module")
def restless(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    with running_node(folder, {"tiny": tiny}, supervisor=RESTLESS) as node:
        node.wait_until_ready()
        yield node


@pytest.fixture(scope="module")
def expected(node: RunningNode) -> list[Heard]:
    heard = asyncio.run(streams(node.url, lambda _: None))
    assert [item.usage["completion_tokens"] for item in heard] == [TOKENS, TOKENS]
    assert [len(item.tokens) for item in heard] == [TOKENS, TOKENS]
    assert heard[0].text != heard[1].text
    return heard


@pytest.mark.parametrize("token", range(0, TOKENS, STRIDE))
def test_a_child_killed_at_a_token_is_not_heard_of(
    restless: RunningNode, expected: list[Heard], token: int
) -> None:
    child = psutil.Process(restless.model("tiny")["pid"])

    def kill_at_the_token(heard: list[Heard]) -> None:
        if min(len(item.tokens) for item in heard) >= token:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has been killed
                child.kill()

    heard = asyncio.run(streams(restless.url, kill_at_the_token))
    for mine, theirs in zip(heard, expected, strict=True):
        assert mine.text == theirs.text
        assert mine.tokens == theirs.tokens
        assert (mine.finish, mine.counts, mine.done) == (theirs.finish, theirs.counts, True)
    eventually(lambda: is_another(restless, child.pid))


def is_another(node: RunningNode, pid: int) -> bool:
    entry = node.model("tiny")
    return bool(entry["state"] == "ready" and entry["pid"] != pid)


def test_streams_were_taken_up_from_all_over_their_length(restless: RunningNode) -> None:
    """The tests above prove nothing where the child had said everything before it was killed."""
    lines = [re.search(r'after_tokens"?[=:](\d+)', line) for line in restless.log]
    taken_up = {int(found[1]) for found in lines if found}
    assert len(taken_up) > TOKENS / STRIDE / 2
    assert min(taken_up) < TOKENS / 4
    assert max(taken_up) > TOKENS / 2
