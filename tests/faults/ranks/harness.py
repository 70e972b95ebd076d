"""A model over two and three processes in a whole node, and blows to each of its processes.

The same folder is served by one process too, whose answers are expected. What each fault took is
printed (`-s`): until the node noticed, and the longest pause of the first client's stream.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
import psutil

from tests.processes import eventually, has_ended
from tests.sse import chat_events_from, chat_text
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import RunningNode

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
A_FEW: Final = 10
"""Tokens of a stream that have been read by then."""


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


BLOWS: Final = [Blow(part, deal) for part in PARTS for deal in (kill, stop)]
