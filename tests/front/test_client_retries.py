"""The official clients wait as long as they are told, and their second try is answered."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import anthropic
import openai
import pytest

from tests.front.asking import Front, Serve, model
from tests.rounds import variants
from tests.supervisor_harness import PATIENT, Fifo, soon


@dataclass(frozen=True)
class Seen:
    """One answer as the client had it: when, its status, and how long it was told to wait."""

    at: float
    status: int
    retry_after: float


class Watch:
    """What a client gets from the node, and what is to happen at the first refusal."""

    def __init__(self, at_refusal: Callable[[], Awaitable[None]]) -> None:
        self.seen: list[Seen] = []
        self._at_refusal = at_refusal

    async def __call__(self, response: Any) -> None:
        told = float(response.headers.get("Retry-After", 0))
        self.seen.append(Seen(asyncio.get_running_loop().time(), response.status_code, told))
        if len(self.seen) == 1:
            await self._at_refusal()


async def ask_gpt(front: Front, watch: Watch) -> str:
    hooks: Any = openai.DefaultAsyncHttpxClient(event_hooks={"response": [watch]})
    url = str(front.client.make_url("/v1"))
    async with openai.AsyncOpenAI(
        base_url=url, api_key="-", max_retries=1, http_client=hooks
    ) as client:
        answer = await client.responses.create(model="m", input="hello again")
    return str(answer.output_text)


async def ask_claude(front: Front, watch: Watch) -> str:
    hooks: Any = anthropic.DefaultAsyncHttpxClient(event_hooks={"response": [watch]})
    url = str(front.client.make_url(""))
    async with anthropic.AsyncAnthropic(
        base_url=url, api_key="-", max_retries=1, http_client=hooks
    ) as client:
        turn: Any = {"role": "user", "content": "hello again"}
        answer: Any = await client.messages.create(model="m", max_tokens=9, messages=[turn])
    return str(answer.content[0].text)


both_clients = pytest.mark.parametrize("ask", variants([ask_gpt, ask_claude], [ask_gpt]))


@both_clients
async def test_a_client_comes_again_to_a_queue_that_was_full(
    serve: Serve, pace: Fifo, ask: Callable[[Front, Watch], Awaitable[str]]
) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1, max_queue=0),))
    first = asyncio.ensure_future(front.chat("one"))
    await front.reaches(running=1)

    async def make_room() -> None:
        pace.let(1)
        await soon(first)
        pace.let(2)

    watch = Watch(make_room)
    assert await soon(ask(front, watch)) == "hello again"
    _waited_as_told(watch, 429)


@both_clients
async def test_a_client_comes_again_to_a_model_that_was_loading(
    serve: Serve, hold: Fifo, ask: Callable[[Front, Watch], Awaitable[str]]
) -> None:
    impatient = replace(PATIENT, load_wait=0)
    front = await serve("--hold-load", hold.path, resume=impatient, wait=False)

    async def load() -> None:
        hold.let(1)
        await front.reaches(state="ready")

    watch = Watch(load)
    assert await soon(ask(front, watch)) == "hello again"
    _waited_as_told(watch, 503)


def _waited_as_told(watch: Watch, status: int) -> None:
    refused, answered = watch.seen
    assert (refused.status, answered.status) == (status, 200)
    assert refused.retry_after >= 1
    assert answered.at - refused.at >= refused.retry_after
