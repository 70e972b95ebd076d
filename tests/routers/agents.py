"""Agents that hold conversations through a router, and what each turn showed."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp

from tests.routers.fleet import KEY, MODEL
from tests.sse import DONE, EventParser
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from random import Random

    from tests.routers.fleet import Node

SYSTEM: Final = " ".join(WORDS[:16])
ANSWER_TOKENS: Final = 24
LONGEST_HISTORY: Final = 24
"""Messages after which an agent begins a new session: far below the model's context."""

HELD_SHARE: Final = 0.8
"""Share of the last prompt that is in the cache of the node that had this prompt, at least.

Another node has at most the system prompt, which is a small part.
"""


class Broken(Exception):
    """A turn that a client has to count as failed; says why."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What an agent saw of one turn."""

    text: str
    finish: str
    usage: Mapping[str, Any]
    headers: Mapping[str, str]


@dataclass
class Tally:
    """Counts of all turns of some agents."""

    turns: int = 0
    later: int = 0
    """Turns after the first of a session."""
    held: int = 0
    """Those of them whose node had the last prompt of the session."""
    failures: list[tuple[int, str]] = field(default_factory=list)
    """The number of the turn, and why."""
    in_flight: set[int] = field(default_factory=set)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    """The headers of all responses."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def share(self) -> float:
        """The share of later turns at the node that holds the prefix."""
        return self.held / self.later if self.later else 0.0


class Ask(Protocol):
    """Stream one turn of these messages and this session. Raises Broken."""

    async def __call__(self, messages: Sequence[Mapping[str, str]], session: str, /) -> Turn: ...


async def ask(
    client: aiohttp.ClientSession, messages: Sequence[Mapping[str, str]], session: str
) -> Turn:
    """Stream one turn, and see that the stream is whole. Raises Broken."""
    body = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"X-Session-Id": session, "Authorization": f"Bearer {KEY}"}
    try:
        async with client.post("/v1/chat/completions", json=body, headers=headers) as response:
            if response.status != 200:
                text = await response.text()
                raise Broken(f"status {response.status}: {text[:300]}")
            events = await _events(response)
            return _turn(events, dict(response.headers))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from error


async def _events(response: aiohttp.ClientResponse) -> list[Any]:
    parser = EventParser()
    found = [parser.feed(line) async for line in response.content]
    return [event.data for event in found if event is not None]


def _turn(events: list[Any], headers: Mapping[str, str]) -> Turn:
    """Return what the events of one stream say. Raises Broken for a stream that is not whole."""
    if not events or events[-1] != DONE:
        raise Broken(f"the stream ends without [DONE], after {events[-1:]}")
    text, finish, usage = "", "", None
    for event in events[:-1]:
        if "error" in event:
            raise Broken(f"an error in the stream: {event}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            finish = choice.get("finish_reason") or finish
    if not finish or usage is None:
        raise Broken(f"no end or no usage in {events}")
    return Turn(text, finish, usage, headers)


@dataclass
class Agent:
    """One conversation after the other, a turn at a time."""

    ask: Ask
    tally: Tally
    random: Random
    system: str = SYSTEM
    messages: list[dict[str, str]] = field(default_factory=list)
    session: str = ""
    last_prompt: int = 0

    def _begin(self) -> None:
        self.session = f"session-{self.random.getrandbits(64):016x}"
        self.messages = [{"role": "system", "content": self.system}]
        self.last_prompt = 0

    async def turn(self) -> None:
        """Ask once more; a turn that failed is asked again, as clients do."""
        if not self.session or len(self.messages) > LONGEST_HISTORY:
            self._begin()
        words = " ".join(self.random.choices(WORDS, k=24))
        self.messages.append({"role": "user", "content": words})
        while True:
            number = next(self.tally.numbers)
            self.tally.in_flight.add(number)
            try:
                turn = await self.ask(self.messages, self.session)
            except Broken as error:
                self.tally.failures.append((number, str(error)))
                if len(self.tally.failures) > 50:
                    raise
            else:
                break
            finally:
                self.tally.in_flight.discard(number)
        self._count(turn)
        self.messages.append({"role": "assistant", "content": turn.text})

    def _count(self, turn: Turn) -> None:
        prompt = turn.usage["prompt_tokens"]
        cached = turn.usage["prompt_tokens_details"]["cached_tokens"]
        self.tally.turns += 1
        self.tally.headers.append(turn.headers)
        if self.last_prompt:
            self.tally.later += 1
            self.tally.held += cached >= HELD_SHARE * self.last_prompt
        self.last_prompt = prompt


async def talk(agents: list[Agent], enough: Callable[[], bool]) -> None:
    """Let all agents talk at the same time, until it is enough."""

    async def talk_on(agent: Agent) -> None:
        while not enough():
            await agent.turn()

    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(talk_on(agent))


async def kill_in_the_middle(agents: list[Agent], tally: Tally, node: Node, turns: int) -> set[int]:
    """Let agents talk on while a node is killed; return the turns that ran at that moment."""
    killed: set[int] = set()

    def enough() -> bool:
        if not killed and tally.turns >= turns // 3:
            killed.update(tally.in_flight)
            node.kill()
        return bool(killed) and tally.turns >= turns

    await talk(agents, enough)
    return killed
