"""A model over two processes in a whole node: what it says, and the end of each process.

The same folder is served by one process too, whose answers are expected.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import psutil
import pytest

from tests.processes import RunningNode, eventually, has_ended, running_node
from tests.rounds import variants
from tests.sse import chat_events_from, chat_text
from tests.synthetic_models import WORDS, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SUPERVISOR: Final = """
stall_timeout = 5
load_stall_timeout = 60
backoff_initial = 0
max_restarts = 100000
max_crashes = 100
"""
ASKED: Final = {
    "messages": [{"role": "user", "content": " ".join(WORDS * 4)}],
    "max_tokens": 120,
    "temperature": 0.8,
    "seed": 5,
}
SOME_EVENT: Final = 10
"""Events of the stream that have been read by then."""

IDLE_CPU: Final = 0.1
"""Seconds of CPU: far less than a rank that waits in a collective takes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("pipelined", tmp_path_factory.mktemp("models") / "pipelined")


@pytest.fixture(scope="module")
def node(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(
        tmp_path_factory.mktemp("ranks"),
        {"one": folder, "two": folder},
        supervisor=SUPERVISOR,
        extra={"one": "", "two": "ranks = 2"},
    ) as running:
        running.wait_until_ready()
        yield running


def nothing(_events: int) -> None:
    """Leave the node alone."""


async def streamed(
    node: RunningNode, model: str, on_event: Callable[[int], None] = nothing, **more: Any
) -> str:
    """The text of a streamed request; `on_event` is told how far the stream is."""
    text, events = "", 0
    body = {**ASKED, "model": model, "stream": True, **more}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{node.url}/v1/chat/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        async for chunk in chat_events_from(response.content):
            events += 1
            on_event(events)
            text += chat_text(chunk)
    return text


def processes_of(node: RunningNode) -> dict[str, psutil.Process]:
    """The processes of the model "two", by their part."""
    eventually(lambda: len(node.model("two")["ranks"]) == 2)
    entries = node.ask("/admin/processes").json["processes"]
    pids = {entry["kind"]: entry["pid"] for entry in entries if entry["model"] == "two"}
    kinds = {"rank 0": "model", "rank 1": "rank", "keeper": "keeper"}
    return {part: psutil.Process(pids[kind]) for part, kind in kinds.items()}


@pytest.mark.full
def test_two_ranks_say_what_one_process_says(node: RunningNode) -> None:
    async def both() -> list[list[str]]:
        texts = [" ".join(WORDS[i : i + 5]) for i in range(4)]
        return [
            await asyncio.gather(
                *(
                    streamed(node, model, messages=[{"role": "user", "content": text}])
                    for text in texts
                )
            )
            for model in ("one", "two")
        ]

    alone, together = asyncio.run(both())
    assert together == alone
    assert len(set(alone)) == len(alone)


class Strike:
    """A signal to one process of the model "two", once the stream has come to an event."""

    def __init__(
        self, node: RunningNode, part: str, number: signal.Signals, at: int = SOME_EVENT
    ) -> None:
        eventually(lambda: node.model("two")["state"] == "ready")
        self._node = node
        self._restarts = node.model("two")["restarts"]
        self._parts = processes_of(node)
        self._pid = self._parts[part].pid
        self._number = number
        self._at = at
        self._part = part

    def __call__(self, events: int) -> None:
        if events == self._at:
            os.kill(self._pid, self._number)

    def check(self) -> None:
        """There was one restart, and no process from before is left."""
        entry = self._node.model("two")
        assert entry["restarts"] == self._restarts + 1
        if self._number == signal.SIGKILL and self._part == "rank 1":
            assert entry["last_exit"]["how"] == "rank 1: killed by SIGKILL"
        eventually(lambda: all(has_ended(process) for process in self._parts.values()))


@pytest.fixture(scope="module")
def expected(node: RunningNode) -> str:
    text = asyncio.run(streamed(node, "one"))
    assert len(text.split()) > 60
    return text


@pytest.mark.parametrize("number", variants([signal.SIGKILL, signal.SIGSTOP], [signal.SIGKILL]))
@pytest.mark.parametrize("part", variants(["rank 1", "rank 0", "keeper"], ["rank 1"]))
def test_end_or_stop_of_any_process_of_a_model_is_a_pause(
    node: RunningNode, expected: str, part: str, number: signal.Signals
) -> None:
    strike = Strike(node, part, number)
    assert asyncio.run(streamed(node, "two", strike)) == expected
    strike.check()


@pytest.mark.full
@pytest.mark.parametrize("at", range(1, 100, 5))
def test_kill_at_any_token_loses_and_repeats_none(
    node: RunningNode, expected: str, at: int
) -> None:
    strike = Strike(node, "rank 1" if at % 2 else "rank 0", signal.SIGKILL, at)
    assert asyncio.run(streamed(node, "two", strike)) == expected
    strike.check()


@pytest.mark.full
def test_three_ranks_with_layers_each_say_what_one_process_says(
    folder: Path, tmp_path: Path, expected: str
) -> None:
    with running_node(
        tmp_path, {"three": folder}, extra='ranks = 3\nsplit = "pipeline"'
    ) as running:
        running.wait_until_ready()
        eventually(lambda: len(running.model("three")["ranks"]) == 3)
        assert asyncio.run(streamed(running, "three")) == expected


@pytest.mark.full
def test_idle_ranks_take_no_cpu(node: RunningNode) -> None:
    eventually(lambda: node.model("two")["state"] == "ready")
    rank = processes_of(node)["rank 1"]
    before = rank.cpu_times()
    began = asyncio.run(streamed(node, "one"))  # some seconds of work elsewhere
    assert began
    after = rank.cpu_times()
    assert after.user + after.system - before.user - before.system < IDLE_CPU
