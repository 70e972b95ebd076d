"""A model over two and three processes in a whole node, and the end of each process.

The same folder is served by one process too, whose answers are expected. What each fault took is
printed (`-s`): until the node noticed, and the longest pause of the first client's stream.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import re
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
import psutil
import pytest

from tests.processes import RunningNode, eventually, has_ended, running_node
from tests.rounds import variants
from tests.sse import chat_events_from, chat_text
from tests.synthetic_models import WORDS, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUPERVISOR: Final = """
stall_timeout = 5
load_stall_timeout = 30
backoff_initial = 0
max_restarts = 100000
max_crashes = 100
"""
RANKS: Final = {"two": 2, "three": 3}
SECTIONS: Final = {
    "one": "",
    "two": "ranks = 2",
    "three": 'ranks = 3\nsplit = "pipeline"\npreload = false',
}
TEXT: Final = {"enum": ["the river and the moon " * 6]}
BODIES: Final[list[dict[str, Any]]] = [
    {
        "messages": [{"role": "user", "content": " ".join(WORDS * 4)}],
        "temperature": 0.8,
        "seed": 5,
        "logprobs": True,
    },
    {
        "messages": [{"role": "user", "content": "Tell me of rivers"}],
        "temperature": 0,
        "repetition_penalty": 1.2,
    },
    {
        "messages": [{"role": "user", "content": "Tell me of the moon"}],
        "temperature": 0.9,
        "seed": 11,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "text", "schema": TEXT},
        },
    },
]
"""Three streams at a time; the first is watched, with an entry of log-probabilities a token."""

TOKENS: Final = 120
LONG: Final = " ".join(WORDS * 40)
"""A prompt that is read in several chunks."""

A_FEW: Final = 10
"""Tokens of a stream that have been read by then."""

KILLS: Final = 20
GARBAGE: Final = b"\xff" * 64
PIDFD_GETFD: Final = 438
"""The number of the system call on every Linux."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("pipelined", tmp_path_factory.mktemp("models") / "pipelined")


@pytest.fixture(scope="module")
def node(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node, of which nothing is left at the end."""
    with running_node(
        tmp_path_factory.mktemp("ranks"),
        dict.fromkeys(SECTIONS, folder),
        supervisor=SUPERVISOR,
        extra=SECTIONS,
    ) as running:
        eventually(lambda: running.model("one")["state"] == "ready")
        yield running
        left = running.children()
        running.stop()
        eventually(lambda: all(map(has_ended, left)))


@pytest.fixture(scope="module")
def expected(node: RunningNode) -> list[str]:
    texts = asyncio.run(streams(node, "one", BODIES))
    assert len(texts[0].split()) > 60
    return texts


# --- streams ---


@dataclass
class Watched:
    """The stream that is watched: `on_tokens` is told how many tokens have come, 0 at its headers.

    `times` are those of the events.
    """

    on_tokens: Callable[[int], None]
    tokens: int = 0
    times: tuple[float, ...] = ()

    def see(self, choices: list[dict[str, Any]]) -> None:
        for choice in choices:
            self.tokens += len((choice.get("logprobs") or {"content": []})["content"])
        self.on_tokens(self.tokens)
        self.times += (time.time(),)


async def streamed(
    session: aiohttp.ClientSession,
    url: str,
    body: dict[str, Any],
    watched: Watched | None = None,
) -> str:
    text, finish = "", None
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        if watched is not None:
            watched.see([])
        async for event in chat_events_from(response.content):
            if watched is not None:
                watched.see(event["choices"])
            text += chat_text(event)
            for choice in event["choices"]:
                finish = choice["finish_reason"] or finish
    return f"{text}<{finish}>"


async def streams(
    node: RunningNode,
    model: str,
    bodies: list[dict[str, Any]],
    watched: Watched | None = None,
) -> list[str]:
    """The texts of streamed requests that run at once, and how they ended."""
    asked = {"model": model, "stream": True, "max_tokens": TOKENS}
    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(
            *(
                streamed(session, node.url, asked | body, watched if place == 0 else None)
                for place, body in enumerate(bodies)
            )
        )


# --- the processes of a model ---


def parts_of(node: RunningNode, model: str) -> dict[str, psutil.Process]:
    """The processes of a model that loads or serves, by their titles."""
    parts: dict[str, psutil.Process] = {}
    for process in node.children():
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if found := re.match(rf"mlx-worker: {model}(?: rank (\d))?, port", title):
                parts[f"rank {found[1] or 0}"] = process
                if found[1] and (keeper := process.parent()) is not None:
                    parts[f"keeper {found[1]}"] = keeper
    return parts


def has_all(node: RunningNode, model: str, gone: set[int]) -> bool:
    """All processes of a model run, and none of those that were struck."""
    parts = parts_of(node, model)
    pids = {process.pid for process in parts.values()}
    return len(parts) == 2 * RANKS[model] - 1 and not pids & gone


class Part(NamedTuple):
    """A process of a model."""

    model: str
    name: str

    def __str__(self) -> str:
        return f"{self.model}, {self.name}"


class Blow(NamedTuple):
    """What is done to the processes of a part."""

    part: Part
    deal: Callable[[int], None]

    def __str__(self) -> str:
        return f"{self.deal.__name__} of {self.part}"


PARTS: Final = [
    Part(model, name)
    for model, ranks in RANKS.items()
    for name in ("rank 0", *(f"{kind} {n}" for n in range(1, ranks) for kind in ("rank", "keeper")))
]


class Strike:
    """A blow to one process of a model, once the watched stream has come to a token."""

    def __init__(self, node: RunningNode, blow: Blow, at: int) -> None:
        model = blow.part.model
        if node.model(model)["state"] != "ready":
            asyncio.run(streams(node, model, BODIES[1:2]))  # loads the model
        eventually(lambda: node.model(model)["state"] == "ready")
        eventually(lambda: has_all(node, model, set()))
        self._node, self._model, self._blow = node, model, blow
        self._restarts = node.model(model)["restarts"]
        self._processes = parts_of(node, model)
        self._at = at
        self._has_begun = False
        self._struck = 0.0
        self._lines = len(node.log)

    def __call__(self, tokens: int) -> None:
        if tokens >= self._at and not self._has_begun:
            self._has_begun = True
            self._begin()

    def _begin(self) -> None:
        self._strike()

    def _strike(self) -> None:
        self._struck = time.time()
        self._blow.deal(self._processes[self._blow.part.name].pid)

    def check(self, watched: Watched, phase: str, restarts: int = 1) -> None:
        """There was a restart for the blow, and no process from before is left."""
        assert self._struck
        # A keeper that is stopped holds up nothing: the streams may end before it is missed.
        expected = self._restarts + restarts
        eventually(lambda: self._node.model(self._model)["restarts"] >= expected)
        entry = self._node.model(self._model)
        # Three ranks may stand still for as long as `stall_timeout` where the cores are shared.
        reasons = re.findall(r'"reason":"([^"]+)"', self.lines)
        stalls = sum("no progress for" in reason for reason in reasons)
        assert expected <= entry["restarts"] <= expected + stalls, reasons
        ended = [process for process in self._processes.values() if not has_ended(process)]
        eventually(lambda: all(map(has_ended, ended)))
        entered = (entry["enteredAt"].get(state, 0) / 1000 for state in ("killing", "backoff"))
        noticed = min(at for at in entered if at >= self._struck - 0.01) - self._struck
        gaps = (end - begin for begin, end in itertools.pairwise(watched.times))
        pause = max(gaps)
        took = f"noticed after {noticed:.3f} s, a pause of {pause:.1f} s"
        print(f"{self._blow} while {phase}: {took}")  # noqa: T201

    @property
    def lines(self) -> str:
        """What the node has logged since."""
        return "".join(self._node.log[self._lines :])


class StrikeAtLoad(Strike):
    """A blow to a process that loads: that of rank 0 before has its streams wait for the load."""

    def _begin(self) -> None:
        os.kill(self._processes["rank 0"].pid, signal.SIGKILL)

    async def follow(self) -> None:
        """Wait for the next processes of the model, and strike."""
        gone = {process.pid for process in self._processes.values()}
        await asyncio.to_thread(eventually, lambda: has_all(self._node, self._model, gone))
        self._processes = parts_of(self._node, self._model)
        self._strike()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def garble(pid: int) -> None:
    """Write garbage to the front, as if the keeper had sent it."""
    pidfd = os.pidfd_open(pid)
    output = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, 1, 0)
    os.close(pidfd)
    assert output >= 0, os.strerror(ctypes.get_errno())
    os.write(output, GARBAGE)
    os.close(output)


BLOWS: Final = [Blow(part, deal) for part in PARTS for deal in (kill, stop)]


@pytest.mark.parametrize("blow", variants(BLOWS, [Blow(Part("two", "rank 1"), kill)]), ids=str)
def test_end_or_stop_of_any_process_while_decoding_is_a_pause(
    node: RunningNode, expected: list[str], blow: Blow
) -> None:
    strike = Strike(node, blow, A_FEW)
    watched = Watched(strike)
    assert asyncio.run(streams(node, blow.part.model, BODIES, watched)) == expected
    strike.check(watched, "decoding")
    if blow.deal is kill and blow.part.name in ("rank 1", "rank 2"):
        how = node.model(blow.part.model)["last_exit"]["how"]
        assert how == f"{blow.part.name}: killed by SIGKILL"


@pytest.mark.full
@pytest.mark.parametrize("blow", BLOWS, ids=str)
def test_end_or_stop_of_any_process_while_a_prompt_is_read_is_a_pause(
    node: RunningNode, blow: Blow
) -> None:
    # No prompt like an earlier one, which would be cached.
    messages = [{"role": "user", "content": f"{BLOWS.index(blow)} {LONG}"}]
    bodies = [{**body, "messages": messages} for body in BODIES[:2]]
    texts = asyncio.run(streams(node, "one", bodies))
    strike = Strike(node, blow, 0)
    watched = Watched(strike)
    assert asyncio.run(streams(node, blow.part.model, bodies, watched)) == texts
    strike.check(watched, "prefilling")


@pytest.mark.full
@pytest.mark.parametrize("blow", BLOWS, ids=str)
def test_end_or_stop_of_any_process_while_loading_is_a_pause(
    node: RunningNode, expected: list[str], blow: Blow
) -> None:
    strike = StrikeAtLoad(node, blow, A_FEW)
    watched = Watched(strike)

    async def both() -> list[str]:
        texts, _ = await asyncio.gather(
            streams(node, blow.part.model, BODIES, watched), strike.follow()
        )
        return texts

    assert asyncio.run(both()) == expected
    strike.check(watched, "loading", restarts=2)


@pytest.mark.skipif(sys.platform != "linux", reason="writes to the pipe of another process")
@pytest.mark.full
@pytest.mark.parametrize("part", [part for part in PARTS if "keeper" in part.name], ids=str)
def test_garbage_of_a_rank_is_a_pause(node: RunningNode, expected: list[str], part: Part) -> None:
    strike = Strike(node, Blow(part, garble), A_FEW)
    watched = Watched(strike)
    assert asyncio.run(streams(node, part.model, BODIES, watched)) == expected
    strike.check(watched, "decoding")
    assert "garbage on the pipe" in strike.lines


@pytest.mark.full
@pytest.mark.parametrize(
    ("at", "name"),
    [*zip(range(1, TOKENS, TOKENS // KILLS), itertools.cycle(["rank 1", "rank 0", "keeper 1"]))],
)
def test_kill_at_any_token_loses_and_repeats_none(
    node: RunningNode, expected: list[str], at: int, name: str
) -> None:
    strike = Strike(node, Blow(Part("two", name), kill), at)
    watched = Watched(strike)
    assert asyncio.run(streams(node, "two", BODIES, watched)) == expected
    strike.check(watched, f"token {at} comes")


@pytest.mark.full
@pytest.mark.parametrize("is_loading", [False, True], ids=["ready", "loading"])
def test_end_of_the_front_ends_every_rank(
    folder: Path, tmp_path: Path, *, is_loading: bool
) -> None:
    with running_node(tmp_path, {"three": folder}, extra='ranks = 3\nsplit = "pipeline"') as node:
        if not is_loading:
            node.wait_until_ready()
        eventually(lambda: has_all(node, "three", set()))
        parts = parts_of(node, "three")
        stop(parts["rank 2"].pid)
        node.process.kill()
        eventually(lambda: all(map(has_ended, parts.values())))


# --- what ranks cost while there is nothing to do ---


def switches(process: psutil.Process) -> tuple[list[int], list[int]]:
    """Context switches of the main thread, and of all others: waits, and preemptions."""
    of_main, of_others = [0, 0], [0, 0]
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        lines = dict(
            line.split(":", 1) for line in (thread / "status").read_text().splitlines() if line
        )
        counted = of_main if thread.name == str(process.pid) else of_others
        for place, kind in enumerate(("voluntary", "nonvoluntary")):
            counted[place] += int(lines[f"{kind}_ctxt_switches"])
    return of_main, of_others


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
@pytest.mark.full
def test_idle_rank_waits_in_one_system_call(node: RunningNode) -> None:
    """Only the thread that answers pings runs."""
    eventually(lambda: node.model("two")["state"] == "ready")
    eventually(lambda: has_all(node, "two", set()))
    rank = parts_of(node, "two")["rank 1"]
    asyncio.run(streams(node, "two", BODIES[:1]))
    _, of_others = switches(rank)
    eventually(lambda: switches(rank)[1] > of_others)
    of_main, of_others = switches(rank)
    asyncio.run(streams(node, "one", BODIES * 2))  # some seconds of work elsewhere
    eventually(lambda: switches(rank)[1] > of_others)
    assert switches(rank)[0] == of_main
