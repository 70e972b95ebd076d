"""The real child is killed while it scores a prompt and while it answers; nobody can tell."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import psutil
import pytest

from tests.processes import RunningNode, eventually, running_node
from tests.sse import DONE, events_from
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.full


ASKED: Final = {
    "prompt": " ".join(WORDS * 4),
    "max_tokens": 40,
    "temperature": 0.9,
    "seed": 5,
    "echo": True,
    "logprobs": 1,
    "stream": True,
}
ENDS: Final = {"ignore_eos": True, "min_tokens": 20}
BODIES: Final = [ASKED, ASKED | ENDS | {"echo": False}]


@pytest.fixture(scope="module")
def restless(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    restless = "backoff_initial = 0\nmax_restarts = 100000"
    with running_node(
        tmp_path_factory.mktemp("node"), {"tiny": tiny}, supervisor=restless
    ) as running:
        running.wait_until_ready()
        yield running


async def heard(url: str, on_events: Callable[[int], None]) -> list[tuple[str, list[str], bool]]:
    """Return text, tokens and whole end of a scored stream and of its neighbour."""

    async def read(body: dict[str, Any]) -> tuple[str, list[str], bool]:
        text, tokens, events, is_done = "", list[str](), 0, False
        async with session.post(f"{url}/v1/completions", json=body) as response:
            async for _, event in events_from(response.content):
                if is_done := event == DONE:
                    continue
                assert "error" not in event, event
                events += 1
                if body["echo"]:
                    on_events(events)
                for choice in event["choices"]:
                    text += choice["text"]
                    tokens += (choice["logprobs"] or {"tokens": []})["tokens"]
        return text, tokens, is_done

    async with aiohttp.ClientSession() as session:
        return list(await asyncio.gather(*map(read, BODIES)))


@pytest.mark.parametrize("event", [1, 2, 8], ids=["reading", "scored", "begun"])
def test_a_child_killed_in_a_scored_stream_is_not_heard_of(
    restless: RunningNode, event: int
) -> None:
    expected = asyncio.run(heard(restless.url, lambda _: None))
    assert [len(tokens) for _, tokens, _ in expected] == [len(WORDS) * 4 + 40, 40]
    child = psutil.Process(restless.model("tiny")["pid"])

    def kill(events: int) -> None:
        if events == event:
            child.kill()

    assert asyncio.run(heard(restless.url, kill)) == expected
    eventually(
        lambda: (
            restless.model("tiny")["state"] == "ready"
            and restless.model("tiny")["pid"] != child.pid
        )
    )
