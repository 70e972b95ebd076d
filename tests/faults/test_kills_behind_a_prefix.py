"""A child is killed at 60 tokens of a stream behind a prompt of 4,000 tokens; no client can tell.

The process that goes on reads the prompt from disk. How long clients wait then, with KV on disk and
without, is printed: a figure of the machine, not a promise.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
from dataclasses import replace
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from mlx_worker.bench.synthetic.folder import make_folder
from mlx_worker.bench.synthetic.llama import LLAMA, TINY
from tests.disk_nodes import RESTLESS, DiskNode, disk_report
from tests.faults.failing_harness import STEPWISE, failing_copy, fault_folder, set_fault
from tests.faults.failing_model import FOLDER, Fault
from tests.faults.failing_node import COMMAND
from tests.faults.test_every_token import continued_after, last_event
from tests.processes import NO_DISK, eventually
from tests.rounds import rounds
from tests.sse import DONE, events_from
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.soak

NAME: Final = "storable"
SPEC: Final = replace(TINY, hidden=128, layers=3, intermediate=256)
"""A model whose prefill of 4,000 tokens takes longer than the start of a process."""

PREFIX: Final = 4000
"""Words of the system prompt: each is one token."""

INDICES: Final = rounds(3, 12, 60)
"""Tokens at which the child is killed: the first ones."""

MEASURED: Final = rounds(3, 5, 20)
"""Kills whose pauses are compared."""

TOLD_WITHIN: Final = 5.0
"""Seconds in which a process tells what it has read: it tells at most once a second, and a process
that is killed before tells nothing."""

TOKENS: Final = 64
ASKED: Final = {
    "messages": [
        {"role": "system", "content": " ".join(Random(1).choices(WORDS, k=PREFIX))},
        {"role": "user", "content": "Tell me of rivers"},
    ],
    "max_tokens": TOKENS,
    "temperature": 0.8,
    "seed": 7,
    "stream": True,
}


async def stream(url: str) -> tuple[list[Any], float]:
    """Return the deltas and the end of a stream, and the longest time without a delta."""
    said: list[Any] = []
    longest, last = 0.0, monotonic()
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=ASKED) as response,
    ):
        assert response.status == 200, await response.text()
        async for event in events_from(response.content):
            if event.data == DONE:
                return said, longest
            assert "error" not in event.data, event.data
            (choice,) = event.data["choices"]
            if text := choice["delta"].get("content"):
                now = monotonic()
                longest = max(longest, now - last)
                last = now
                said.append(text)
            said += [choice["finish_reason"]] if choice["finish_reason"] else []
    raise AssertionError("the stream ended early")


def text_of(said: list[Any]) -> str:
    """Return the bytes of a stream, however they were cut."""
    return "".join(said)


def told_tokens(disk: DiskNode) -> int:
    """Return how many tokens processes have told to have read from disk."""
    return int(disk_report(disk.node, NAME)["hitTokens"])


class Killed:
    """A node whose child is killed at a token of a stream."""

    def __init__(self, disk: DiskNode, folder: Path) -> None:
        self.disk = disk
        self._folder = folder

    def undisturbed(self) -> str:
        return text_of(asyncio.run(stream(self.disk.node.url))[0])

    def at(self, index: int) -> tuple[str, float]:
        """Return what a client gets whose child is killed at this token, and the pause."""
        before = last_event(self.disk.node)
        set_fault(self._folder, Fault(kind="killed", at=index))
        said, pause = asyncio.run(stream(self.disk.node.url))
        assert continued_after(self.disk.node, before), "no process went on"
        return text_of(said), pause


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return failing_copy(make_folder(SPEC, LLAMA, tmp_path / "original"), tmp_path / NAME, NAME)


def node_of(model: Path, folder: Path, **settings: Any) -> DiskNode:
    folder.mkdir()
    return DiskNode(
        folder,
        {NAME: model},
        supervisor=RESTLESS,
        extra=STEPWISE,
        command=COMMAND,
        **settings,
    )


@pytest.mark.timeout(900)
def test_a_kill_at_any_token_behind_a_long_prefix_changes_no_byte(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(FOLDER, str(fault_folder(tmp_path)))
    with node_of(model, tmp_path / "without", cache=NO_DISK) as disk:
        killed = Killed(disk, tmp_path)
        expected = killed.undisturbed()
        without = [killed.at(index) for index in range(MEASURED)]
    with node_of(model, tmp_path / "with") as disk:
        killed = Killed(disk, tmp_path)
        assert killed.undisturbed() == expected
        heard, tokens = [], 0
        for index in range(INDICES):
            before = told_tokens(disk)
            heard.append(killed.at(index))
            with contextlib.suppress(AssertionError):  # not every process has to read
                eventually(lambda before=before: told_tokens(disk) > before, TOLD_WITHIN)  # type: ignore[misc]
            tokens += told_tokens(disk) - before
    pauses = {
        "without": [pause for _, pause in without],
        "with": [pause for _, pause in heard[:MEASURED]],
    }
    medians = {name: statistics.median(figures) for name, figures in pauses.items()}
    with capsys.disabled():
        sys.stdout.write(
            f"\nkilled at {INDICES} tokens behind {PREFIX:,}: {tokens:,} prompt tokens from disk"
            f"\npause, median of {MEASURED}: {medians['without']:.2f} s without KV on disk,"
            f" {medians['with']:.2f} s with\n"
        )
    assert {text for text, _ in (*without, *heard)} == {expected}
    assert tokens >= INDICES * PREFIX * 0.9
    assert medians["with"] < medians["without"]
