"""The real child is killed around the edges of limits, and no client can tell.

Each answer reasons up to its budget. Then the end of reasoning is forced, and the answer goes on,
or repeats itself until the loop guard ends it. The answers are compared with those of the same
node while it is left alone. The default run kills at one step of each edge, `tox -e full` at every
step around them, `tox -e soak` also where an answer is alone.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from mlx_lm.utils import load_tokenizer

from tests.faults.failing_harness import running_failing_node, set_fault
from tests.faults.failing_model import Fault
from tests.processes import RunningNode, eventually
from tests.sse import DONE, events_from
from tests.synthetic_models import THOUGHT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

BUDGET: Final = 8
LOOP: Final = BUDGET + 1 + 16
"""Tokens of an answer that loops: reasoning, its forced end, and the repeats."""
TOKENS: Final = LOOP + 16
"""Tokens of an answer that does not loop."""

GUARD: Final = "loop_guard_repeats = 4\nloop_guard_tokens = 16"
NAMES: Final = "abcdefghijklmno"
OBJECT: Final = {
    "type": "object",
    "properties": {name: {"enum": ["sun", "moon"]} for name in NAMES},
    "required": [*NAMES],
}
FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "object", "schema": OBJECT}}
SAMPLED: Final = {"temperature": 0.9, "seed": 11}

ASKED: Final = {
    "messages": [{"role": "user", "content": "Tell me of rivers"}],
    "max_tokens": TOKENS,
    "max_reasoning_tokens": BUDGET,
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
}
ENDLESS: Final = {"ignore_eos": True, "frequency_penalty": 1}

AROUND: Final = range(BUDGET - 4, LOOP + 12)
"""Steps of a batch, counted from its first row's first: the other rows begin a few steps later."""


class Received:
    """What a client has of one stream, by what must not change."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.texts: dict[str, str] = {}
        self.end: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.counts: dict[str, Any] = {}
        self.is_done = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Received) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def add(self, event: Any) -> None:
        if event == DONE:
            self.is_done = True
            return
        assert "error" not in event, event
        if usage := event.get("usage"):
            reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
            self.counts = {"all": usage["completion_tokens"], "reasoning": reasoning}
        for choice in event["choices"]:
            for name in ("content", "reasoning_content"):
                more = choice["delta"].get(name) or ""
                self.texts[name] = self.texts.get(name, "") + more
            self.tokens += [
                item["token"] for item in (choice.get("logprobs") or {"content": []})["content"]
            ]
            self.warnings += choice.get("warnings", [])
            if choice["finish_reason"]:
                self.end = {"reason": choice["finish_reason"], "loop": choice.get("loop")}


@pytest.fixture(scope="module")
def bodies(caller: Path) -> dict[str, dict[str, Any]]:
    tokenizer = load_tokenizer(caller)
    loop = {"logit_bias": {str(token): 60 for token in tokenizer.encode("!")}, "ignore_eos": True}
    blanks = {str(token): -100 for name in "\n\t " for token in tokenizer.encode(name)}
    shape = {"response_format": FORMAT, "logit_bias": blanks}
    return {
        "greedy": ENDLESS,
        "sampled": ENDLESS | SAMPLED,
        "shape": shape,
        "sampled-shape": shape | SAMPLED,
        "loop": loop,
        "sampled-loop": loop | SAMPLED,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restless")


@pytest.fixture(scope="module")
def restless(caller: Path, folder: Path) -> Iterator[RunningNode]:
    with running_failing_node("caller", caller, folder, extra=GUARD) as node:
        yield node


async def _received(url: str, bodies: dict[str, dict[str, Any]]) -> dict[str, Received]:
    received = {name: Received() for name in bodies}

    async def read(name: str) -> None:
        asked, headers = ASKED | bodies[name], {"X-Request-Id": name}
        async with session.post(
            f"{url}/v1/chat/completions", json=asked, headers=headers
        ) as response:
            assert response.status == 200, await response.text()
            async for event in events_from(response.content):
                received[name].add(event.data)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*map(read, bodies))
    return received


def received(node: RunningNode, bodies: dict[str, dict[str, Any]]) -> dict[str, Received]:
    """Return what clients get that ask all of these at once."""
    return asyncio.run(_received(node.url, bodies))


@pytest.fixture(scope="module")
def expected(restless: RunningNode, bodies: dict[str, dict[str, Any]]) -> dict[str, Received]:
    answers = received(restless, bodies)
    for name, answer in answers.items():
        assert answer.tokens.index(THOUGHT) == BUDGET, name
        assert answer.counts["reasoning"] == BUDGET + 1
        assert answer.is_done
        loops = name.endswith("loop")
        assert len(answer.tokens) == (LOOP if loops else TOKENS)
        assert answer.end == {"reason": "length", "loop": {"period": 1} if loops else None}
        assert len(answer.warnings) == loops
    assert answers["greedy"].tokens != answers["sampled"].tokens
    return answers


def check_killed_at(
    node: RunningNode,
    folder: Path,
    bodies: dict[str, dict[str, Any]],
    expected: dict[str, Received],
    steps: Iterable[int],
) -> None:
    """Kill the child at each of these steps, and compare the answers.

    Tokens of a few steps may leave in one frame, so an answer goes on after some earlier token.
    """
    for step in steps:
        pid, seen = node.model("caller")["pid"], last_event(node)
        set_fault(folder, Fault(kind="killed", at=step))
        for name, answer in received(node, bodies).items():
            assert answer == expected[name], (step, name)
        events = node.ask(f"/admin/events?after={seen}").json["events"]
        resumed = [event["facts"] for event in events if event["kind"] == "resume"]
        assert {facts["request_id"] for facts in resumed} <= bodies.keys()
        assert 1 <= len(resumed) <= len(bodies)
        assert max(facts["after_tokens"] for facts in resumed) <= step
        eventually(partial(is_another, node, pid))


def is_another(node: RunningNode, pid: int) -> bool:
    entry = node.model("caller")
    return bool(entry["state"] == "ready" and entry["pid"] != pid)


def last_event(node: RunningNode) -> int:
    return int(node.ask("/admin/events").json["events"][-1]["id"])


@pytest.mark.full
@pytest.mark.timeout(600)
def test_limits_of_a_batch_whose_child_is_killed_are_exact(
    restless: RunningNode,
    folder: Path,
    bodies: dict[str, dict[str, Any]],
    expected: dict[str, Received],
) -> None:
    check_killed_at(restless, folder, bodies, expected, AROUND)


@pytest.mark.full
@pytest.mark.usefixtures("expected")
def test_loop_is_an_event_and_a_metric(restless: RunningNode) -> None:
    loops = [
        entry for entry in restless.ask("/admin/events").json["events"] if entry["kind"] == "loop"
    ]
    facts = [entry["facts"] for entry in loops if entry["facts"]["request_id"] == "loop"]
    assert facts[0] == {"request_id": "loop", "period": 1, "tokens": LOOP}
    assert {entry["model"] for entry in loops} == {"caller"}
    counted = f'mlx_worker_loops_total{{model="caller"}} {float(len(loops))}'
    assert counted in restless.ask("/metrics").body.decode()


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", ["greedy", "sampled", "shape", "sampled-shape", "loop", "sampled-loop"]
)
def test_limits_of_an_answer_alone_whose_child_is_killed_are_exact(
    restless: RunningNode,
    folder: Path,
    bodies: dict[str, dict[str, Any]],
    expected: dict[str, Received],
    name: str,
) -> None:
    steps = [*range(BUDGET - 4, BUDGET + 6), *range(LOOP - 4, LOOP + 1)]
    check_killed_at(restless, folder, {name: bodies[name]}, expected, steps)
