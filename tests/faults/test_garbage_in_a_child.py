"""Garbage and errors of mlx in real children, through HTTP: a pause, and the same answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from mlx_worker.child.fatal import EXIT_COMPUTATION_FAILED
from tests.faults.failing_harness import clear_fault, running_failing_node, set_fault
from tests.faults.failing_model import WORDS, Fault
from tests.processes import RunningNode, eventually
from tests.rounds import IS_LONG
from tests.sse import chat_events_from, chat_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKENS: Final = 60
BODIES: Final[list[dict[str, Any]]] = [
    {"temperature": 0, "logprobs": True},
    {"temperature": 0.9, "top_p": 0.95, "seed": 11},
    {
        "temperature": 0.9,
        "seed": 5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"enum": ["the river and the moon " * 6]}},
        },
    },
]
FAULTS: Final = [
    Fault(kind="zeros", at=0),
    Fault(kind="nan", at=17, row=1),
    Fault(at=30, late=1),
    Fault(where="prefill"),
    Fault(where="extract"),
    *(
        Fault(kind=kind, at=at, row=row, late=late)
        for at in (range(TOKENS - 2) if IS_LONG else ())
        for kind, row, late in (
            ("equal", None, 0),
            ("inf", at, 0),
            ("zeros", at, 0),
            ("error", None, at % 2),
        )
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failing")


@pytest.fixture(scope="module")
def failing(nano: Path, folder: Path) -> Iterator[RunningNode]:
    with running_failing_node("nano", nano, folder) as node:
        yield node


async def answers(url: str) -> list[str]:
    """What all of them say, streamed, together."""

    async def one(session: aiohttp.ClientSession, body: dict[str, Any]) -> str:
        asked = {
            "messages": [{"role": "user", "content": "Tell me of rivers"}],
            "max_tokens": TOKENS,
            "stream": True,
        }
        said = ""
        async with session.post(f"{url}/v1/chat/completions", json=asked | body) as response:
            assert response.status == 200, await response.text()
            async for chunk in chat_events_from(response.content):
                said += chat_text(chunk)
                for choice in chunk["choices"]:
                    said += f"<{choice['finish_reason']}>" if choice["finish_reason"] else ""
        return said

    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(one(session, body) for body in BODIES))


@pytest.fixture(scope="module")
def expected(failing: RunningNode) -> list[str]:
    return asyncio.run(answers(failing.url))


def last_event(node: RunningNode) -> int:
    """Return the number of what happened last; the node keeps only the last few hundred."""
    events: list[dict[str, Any]] = node.ask("/admin/events").json["events"]
    return int(events[-1]["id"])


def crashes(node: RunningNode, after: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = node.ask(f"/admin/events?after={after}").json["events"]
    return [event["facts"] for event in events if event["kind"] == "crash"]


@pytest.mark.full
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_child_that_computes_garbage_ends_and_its_answers_go_on(
    failing: RunningNode, folder: Path, expected: list[str], fault: Fault
) -> None:
    before = last_event(failing)
    pid = failing.model("nano")["pid"]
    set_fault(folder, fault)
    if fault.where == "prefill":  # what is resident is not read
        failing.ask("/cache", method="DELETE")
    assert asyncio.run(answers(failing.url)) == expected
    eventually(lambda: bool(crashes(failing, before)))
    crash = crashes(failing, before)[-1]
    assert crash["exit_code"] == EXIT_COMPUTATION_FAILED
    assert (WORDS if fault.kind == "error" else "garbage logits") in crash["cause"]
    eventually(lambda: failing.model("nano")["state"] == "ready")
    assert failing.model("nano")["pid"] != pid


@pytest.mark.full
def test_a_request_whose_logits_overflow_in_every_process_is_poison_and_no_more(
    failing: RunningNode, folder: Path, expected: list[str]
) -> None:
    set_fault(folder, Fault(kind="inf", at=3, again=True))
    body = {"messages": [{"role": "user", "content": "Overflow"}], "max_tokens": 20}
    answer = failing.ask("/v1/chat/completions", body)
    clear_fault(folder)
    assert answer.status == 500
    assert answer.json["error"]["code"] == "poisoned_request"
    eventually(lambda: failing.model("nano")["state"] == "ready")
    assert asyncio.run(answers(failing.url)) == expected
