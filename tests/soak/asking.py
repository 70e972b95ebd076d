"""The requests of a soak, and what became of each."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from tests.sse import DONE, events_from
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

ENDPOINT: Final = "/v1/chat/completions"
DEADLINE: Final = 180.0
"""Seconds for one answer, through all the faults it meets."""

TABLE: Final = {
    (429, "queue_full"),
    (500, "poisoned_request"),
    (503, "child_lost"),
    (503, "model_failed"),
    (503, "model_loading"),
    (503, "node_draining"),
}
"""The refusals that a node has for its own state."""


class Outcome(StrEnum):
    EXACT = "exact"
    REFUSED = "refused"
    FAILED = "ended with a definite error"
    LEFT = "left by their client"
    LOST = "lost"
    WRONG = "wrong"


@dataclass
class Tally:
    """How many ended how; what was lost or wrong is kept in words."""

    ended: Counter[Outcome] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def add(self, outcome: Outcome, complaint: str = "") -> None:
        self.ended[outcome] += 1
        if complaint:
            self.complaints.append(complaint)
        async with self._news:
            self._news.notify_all()

    async def reaches(self, total: int) -> None:
        """Wait until so many have ended."""
        async with self._news:
            await self._news.wait_for(lambda: self.ended.total() >= total)


@dataclass(frozen=True)
class Ask:
    """One request, and how its client behaves: it may read slowly, or leave after some events."""

    body: Mapping[str, Any]
    stream: bool
    slow: bool = False
    leaves_after: int | None = None


def bodies(models: list[str], chance: Random, count: int) -> list[dict[str, Any]]:
    """Requests of many kinds; the answer to each is the same whenever it is asked."""
    return [_body(models[i % len(models)], chance, i) for i in range(count)]


def _body(model: str, chance: Random, number: int) -> dict[str, Any]:
    words = " ".join(chance.choices(WORDS, k=chance.choice([3, 12, 60])))
    system = " ".join(chance.choices(WORDS, k=40))
    turns = [{"role": "user", "content": words}]
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.9, "top_p": 0.95},
        {"temperature": 1.2, "top_k": 40, "presence_penalty": 0.5},
        {"temperature": 0, "repetition_penalty": 1.2, "stop": [chance.choice(WORDS)]},
        {"temperature": 0.7, "min_p": 0.05, "logprobs": True},
    ]
    return {
        "model": model,
        "messages": [{"role": "system", "content": system}, *turns] if number % 3 else turns,
        "max_tokens": chance.choice([4, 20, 60]),
        "seed": number,
    } | kinds[number % len(kinds)]


class Client:
    """Asks one node, and knows the answers."""

    def __init__(self, url: str, session: aiohttp.ClientSession, tally: Tally) -> None:
        self._url = url + ENDPOINT
        self._session = session
        self._tally = tally
        self._expected: dict[int, str] = {}

    async def learn(self, body: Mapping[str, Any]) -> None:
        """Ask in peace what will be expected in trouble."""
        async with self._session.post(self._url, json=body) as response:
            said = await response.json()
            assert response.status == 200, said
        choice = said["choices"][0]
        self._expected[body["seed"]] = choice["message"]["content"] + choice["finish_reason"]

    async def ask(self, ask: Ask) -> Outcome:
        """One request, to its end, into the tally."""
        seed = ask.body["seed"]
        try:
            async with asyncio.timeout(DEADLINE):
                outcome, said = await self._outcome(ask)
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome, said = Outcome.LOST, f"{seed}: {error!r}"
        if outcome is Outcome.EXACT and said != self._expected[seed]:
            outcome, said = Outcome.WRONG, f"{seed}: {said!r}, not {self._expected[seed]!r}"
        bad = outcome in (Outcome.LOST, Outcome.WRONG)
        await self._tally.add(outcome, said if bad else "")
        return outcome

    async def _outcome(self, ask: Ask) -> tuple[Outcome, str]:
        body = {**ask.body, "stream": ask.stream}
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                return await _refusal(response)
            if ask.stream:
                return await _read(response, ask)
            choice = (await response.json())["choices"][0]
            return Outcome.EXACT, choice["message"]["content"] + choice["finish_reason"]


async def _refusal(response: aiohttp.ClientResponse) -> tuple[Outcome, str]:
    text = await response.text()
    if (response.status, json.loads(text)["error"]["code"]) not in TABLE:
        return Outcome.LOST, f"HTTP {response.status}: {text}"
    if response.status != 500 and int(response.headers["Retry-After"]) < 1:
        return Outcome.LOST, f"HTTP {response.status} without a Retry-After"
    return Outcome.REFUSED, text


async def _read(response: aiohttp.ClientResponse, ask: Ask) -> tuple[Outcome, str]:
    """The whole stream, as this client reads it."""
    said, finish, events = "", "", 0
    async for _, event in events_from(response.content):
        if event == DONE:
            return Outcome.EXACT, said + finish
        if "error" in event:
            known = event["error"]["code"] in {code for _, code in TABLE}
            return (Outcome.FAILED if known else Outcome.LOST), json.dumps(event)
        for choice in event["choices"]:
            said += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
        events += 1
        if events == ask.leaves_after:
            response.close()
            return Outcome.LEFT, said
        if ask.slow:
            await asyncio.sleep(0.05)  # it reads no faster: that is what it is
    return Outcome.LOST, f"{ask.body['seed']}: the stream ended after {said!r}"
