"""The official clients lose their connection, and their own retry joins the first attempt."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import anthropic
import openai
import pytest

from tests.front.test_lingering import counts, has_clients
from tests.front.test_requests import reaches
from tests.rounds import variants
from tests.supervisor_harness import Fifo, eventually, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from tests.front.asking import Front, Serve

WORDS: Final = "one two three four"
CHUNK: Final = 1 << 16


class Relay:
    """Passes connections on to a node, and can break them."""

    def __init__(self, front: Front) -> None:
        self.connections: list[asyncio.StreamWriter] = []
        self._front = front

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = self._front.client.make_url("")
        assert url.host
        node_reader, node_writer = await asyncio.open_connection(url.host, url.port)
        self.connections += [writer, node_writer]
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(_pass(reader, node_writer), _pass(node_reader, writer))

    def break_all(self) -> None:
        for connection in self.connections:
            connection.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
    writer.close()


@contextlib.asynccontextmanager
async def relayed(front: Front) -> AsyncIterator[tuple[Relay, str]]:
    """Yield a relay to a front, and the relay's URL."""
    relay = Relay(front)
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield relay, f"http://127.0.0.1:{port}"


async def ask_chat(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as gpt:
        answer = await gpt.chat.completions.create(
            model="m", messages=[{"role": "user", "content": WORDS}]
        )
    return answer.choices[0].message.content or ""


async def ask_chat_stream(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as gpt:
        stream = await gpt.chat.completions.create(
            model="m", messages=[{"role": "user", "content": WORDS}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def ask_responses(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as gpt:
        return str((await gpt.responses.create(model="m", input=WORDS)).output_text)


async def ask_claude(url: str) -> str:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="-") as claude:
        turn: Any = {"role": "user", "content": WORDS}
        answer: Any = await claude.messages.create(model="m", max_tokens=9, messages=[turn])
    return str(answer.content[0].text)


DIALECTS: Final[dict[Callable[[str], Coroutine[Any, Any, str]], str]] = {
    ask_chat: "chat",
    ask_chat_stream: "chat",
    ask_responses: "responses",
    ask_claude: "messages",
}


@pytest.mark.parametrize("ask", variants(DIALECTS, [ask_chat_stream, ask_claude]))
async def test_client_that_lost_its_connection_joins_by_its_own_retry(
    serve: Serve, hold: Fifo, ask: Callable[[str], Coroutine[Any, Any, str]]
) -> None:
    front = await serve("--hold-start", hold.path)
    async with relayed(front) as (relay, url):
        asking = asyncio.ensure_future(ask(url))
        await reaches(front, "prefill")
        relay.break_all()
        await eventually(lambda: has_clients(front, 0))
        await eventually(lambda: has_clients(front, 1))
        hold.let(1)
        assert await soon(asking) == WORDS
    assert await counts(front, DIALECTS[ask]) == (1, 4, 1)


@pytest.mark.full
async def test_clients_that_lost_their_connections_together_join_by_their_own_retries(
    serve: Serve, hold: Fifo
) -> None:
    front = await serve("--hold-start", hold.path)
    async with relayed(front) as (relay, url):
        asking = [asyncio.ensure_future(ask_chat_stream(url)) for _ in range(32)]
        await eventually(lambda: has_clients(front, *[1] * 32))
        relay.break_all()
        await eventually(lambda: has_clients(front, *[0] * 32))
        await eventually(lambda: has_clients(front, *[1] * 32))
        hold.let(32)
        assert set(await soon(asyncio.gather(*asking))) == {WORDS}
    assert await counts(front) == (32, 32 * 4, 32)
