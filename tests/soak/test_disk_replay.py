"""300 turns of agents in 20 sessions, the node restarted every 50: how much had to be read again.

The answers are the same with KV on disk and without, however the node ends; the folder never holds
more than its bound, by a thread that looks all the while.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.disk_nodes import DiskNode, SizeWatch, cache_section, disk_report
from tests.processes import NO_DISK
from tests.rounds import SEED, rounds
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.soak

SESSIONS: Final = rounds(5, 10, 20)
TURNS: Final = 15
"""Of each session."""

BETWEEN: Final = rounds(15, 30, 50)
"""Turns between two restarts."""

AGENTS: Final = 4
"""Kinds of agents: those of one kind have one system prompt."""

SYSTEM: Final = 1500
"""Words of a system prompt, tools included."""

NARROW: Final = 24 << 20
"""Bytes for a folder that is too small for all sessions."""


@dataclass
class Session:
    """One agent's conversation."""

    name: str
    random: Random
    messages: list[dict[str, str]]

    def body(self) -> dict[str, Any]:
        """Return the next request: what a tool has found, or what the user says."""
        length = self.random.choice([8, 30, 120, 350])
        content = " ".join(self.random.choices(WORDS, k=length))
        self.messages.append({"role": "user", "content": content})
        return {"model": "tiny", "messages": self.messages, "max_tokens": 12, "temperature": 0}


@dataclass
class Replay:
    """What came of all turns."""

    prompt: int = 0
    read: int = 0
    """Prompt tokens that were computed."""
    after_restart: Counter[str] = field(default_factory=Counter)
    """The same of the first turn of each session after a restart."""
    answers: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    most: int = 0

    @property
    def share(self) -> float:
        """Return which part of the prompts' tokens had to be read."""
        return self.read / self.prompt

    @property
    def share_after_restart(self) -> float:
        """Return the same of the first turn of each session after a restart."""
        return self.after_restart["read"] / self.after_restart["prompt"]

    def line(self, name: str) -> str:
        """Return a line of the table."""
        written = self.report.get("writtenToday", 0)
        return (
            f"{name:<30}{self.prompt:>10,}{self.share:>8.1%}"
            f"{self.share_after_restart:>9.1%}"
            f"{written / 1e6:>9.1f}{self.most / 1e6:>9.1f}"
        )


def sessions_of(draw: Random) -> list[Session]:
    systems = [" ".join(draw.choices(WORDS, k=SYSTEM)) for _ in range(AGENTS)]
    return [
        Session(
            f"agent-{number}",
            Random(draw.getrandbits(32)),
            [{"role": "system", "content": systems[number % AGENTS]}],
        )
        for number in range(SESSIONS)
    ]


def play(disk: DiskNode, end: Callable[[], None]) -> Replay:
    """Play all turns, in an order that mixes the sessions; `end` ends the node and starts it."""
    draw, replay = Random(f"replay/{SEED}"), Replay()
    order = [session for session in sessions_of(draw) for _ in range(TURNS)]
    draw.shuffle(order)
    fresh: set[str] = set()
    with disk, SizeWatch(disk.disk) as watch:
        for number, session in enumerate(order):
            if number and number % BETWEEN == 0:
                end()
                fresh = {session.name for session in order[:number]}
            answer = disk.node.ask(
                "/v1/chat/completions", session.body(), headers={"X-Session-Id": session.name}
            )
            assert answer.status == 200, answer.body
            usage = answer.json["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            counts = {"prompt": usage["prompt_tokens"], "read": usage["prompt_tokens"] - cached}
            replay.prompt += counts["prompt"]
            replay.read += counts["read"]
            if session.name in fresh:
                fresh.remove(session.name)
                replay.after_restart.update(counts)
            said = answer.json["choices"][0]["message"]["content"]
            session.messages.append({"role": "assistant", "content": said})
            replay.answers.append(said)
        disk.unload("tiny")  # the last states of all sessions are written now
        replay.report = disk_report(disk.node, "tiny")
    replay.most = watch.most
    return replay


@pytest.mark.timeout(900)
def test_agents_read_little_again_after_restarts_within_the_bound(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def node_of(name: str, cache: str | None = None, capacity: str = "1GiB") -> DiskNode:
        folder = tmp_path / name
        folder.mkdir()
        cache = cache or cache_section(folder / "kv", capacity=capacity)
        return DiskNode(folder, {"tiny": tiny}, cache=cache)

    nodes = {
        "without KV on disk": node_of("without", NO_DISK),
        "with, restarted": node_of("restarted"),
        "with, the front killed": node_of("killed"),
        "with, a narrow bound": node_of("narrow", capacity=str(NARROW)),
    }
    replays = {
        name: play(disk, disk.kill_front if "killed" in name else disk.restart)
        for name, disk in nodes.items()
    }
    with capsys.disabled():
        header = f"{SESSIONS * TURNS} turns, {SESSIONS} sessions, a restart every {BETWEEN}"
        sys.stdout.write(f"\n{header}\n{'':<30}{'tokens':>10}{'read':>8}{'restart':>9}")
        sys.stdout.write(f"{'MB a day':>9}{'MB most':>9}\n")
        for name, replay in replays.items():
            sys.stdout.write(f"{replay.line(name)}\n")
    without, restarted, killed, narrow = replays.values()
    assert restarted.answers == without.answers
    assert killed.answers == without.answers
    assert narrow.answers == without.answers
    assert narrow.most <= NARROW
    assert narrow.most > NARROW / 2, "the bound was never near"
    assert restarted.share_after_restart < without.share_after_restart / 3
    assert killed.share_after_restart < without.share_after_restart / 1.5
    assert narrow.share_after_restart < without.share_after_restart / 1.5
