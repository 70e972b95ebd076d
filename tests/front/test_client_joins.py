"""The official clients lose their connection, and their own retry joins the first attempt."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import anthropic
import httpx
import openai
import pytest

from mlx_worker.api.middleware.request_ids import JOINED
from tests.front.test_lingering import counts
from tests.front.test_requests import rows
from tests.rounds import variants
from tests.supervisor_harness import Fifo, eventually, soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.front.asking import Front, Serve

WORDS: Final = "one two three four"


class CutOnce(httpx.AsyncHTTPTransport):
    """Loses the connection of its first request once the node is at work, and no other one."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        self.retry_counts: list[str] = []
        self.joined: list[str | None] = []
        self._front = front

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.retry_counts.append(request.headers["x-stainless-retry-count"])
        if len(self.retry_counts) > 1:
            response = await super().handle_async_request(request)
            self.joined.append(response.headers.get(JOINED))
            return response
        asking = asyncio.create_task(super().handle_async_request(request))
        await eventually(lambda: self._is(["prefill"], clients=1))
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await eventually(lambda: self._is(["prefill"], clients=0))
        raise httpx.ReadError("the connection is lost")

    async def _is(self, states: list[str], clients: int) -> bool:
        listed = await rows(self._front)
        return [(row["state"], row["clients"]) for row in listed] == [
            (state, clients) for state in states
        ]


async def ask_chat(front: Front, client: httpx.AsyncClient) -> str:
    url = str(front.client.make_url("/v1"))
    async with openai.AsyncOpenAI(base_url=url, api_key="-", http_client=client) as gpt:
        answer = await gpt.chat.completions.create(
            model="m", messages=[{"role": "user", "content": WORDS}]
        )
    return answer.choices[0].message.content or ""


async def ask_chat_stream(front: Front, client: httpx.AsyncClient) -> str:
    url = str(front.client.make_url("/v1"))
    async with openai.AsyncOpenAI(base_url=url, api_key="-", http_client=client) as gpt:
        stream = await gpt.chat.completions.create(
            model="m", messages=[{"role": "user", "content": WORDS}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def ask_responses(front: Front, client: httpx.AsyncClient) -> str:
    url = str(front.client.make_url("/v1"))
    async with openai.AsyncOpenAI(base_url=url, api_key="-", http_client=client) as gpt:
        return (await gpt.responses.create(model="m", input=WORDS)).output_text


async def ask_claude(front: Front, client: httpx.AsyncClient) -> str:
    url = str(front.client.make_url(""))
    async with anthropic.AsyncAnthropic(base_url=url, api_key="-", http_client=client) as claude:
        turn: Any = {"role": "user", "content": WORDS}
        answer: Any = await claude.messages.create(model="m", max_tokens=9, messages=[turn])
    return str(answer.content[0].text)


DIALECTS: Final = {
    ask_chat: "chat",
    ask_chat_stream: "chat",
    ask_responses: "responses",
    ask_claude: "messages",
}


@pytest.mark.parametrize("ask", variants(DIALECTS, [ask_chat_stream, ask_claude]))
async def test_client_that_lost_its_connection_joins_by_its_own_retry(
    serve: Serve, hold: Fifo, ask: Callable[[Front, httpx.AsyncClient], Awaitable[str]]
) -> None:
    front = await serve("--hold-start", hold.path)
    transport = CutOnce(front)
    asking = asyncio.ensure_future(ask(front, httpx.AsyncClient(transport=transport)))

    async def has_joined() -> bool:
        return len(transport.retry_counts) == 2

    await eventually(has_joined)
    (row,) = await rows(front)
    hold.let(1)
    assert await soon(asking) == WORDS
    assert transport.retry_counts == ["0", "1"]
    assert transport.joined == [row["id"]]
    assert await counts(front, DIALECTS[ask]) == (1, 4, 1)
