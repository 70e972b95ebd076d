"""The client of the load: connections that record what arrives and when, and parse nothing.

There is a connection for each request, as with many callers. While the load runs, an arrival costs
a clock, an append and a count of the events in it; the rest is read from the record. [bench]
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from mlx_worker.bench.answer import OK, MeasuredAnswer, read_answer
from mlx_worker.bench.response import ResponseReader
from mlx_worker.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Sequence

_EVENT: Final = b"data: {"


class _Connection(asyncio.Protocol):
    """Sends one request and keeps every arrival until the server closes."""

    def __init__(self, request: bytes) -> None:
        self.arrivals: list[tuple[float, bytes]] = []
        self.ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._request = request
        self._events = 0
        self._awaited: tuple[int, asyncio.Future[None]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's own transports are asyncio's by what they do, not by class.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.arrivals.append((perf_counter(), data))
        self._events += data.count(_EVENT)
        if self._awaited is not None and self._events >= self._awaited[0]:
            self._wake()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._awaited is not None:
            self._wake()
        if not self.ended.done():
            self.ended.set_result(perf_counter())

    async def more_events(self, count: int) -> None:
        if self.ended.done():
            return
        future = asyncio.get_running_loop().create_future()
        self._awaited = self._events + count, future
        await future

    def _wake(self) -> None:
        assert self._awaited is not None
        _, future = self._awaited
        self._awaited = None
        if not future.done():
            future.set_result(None)


@dataclass(frozen=True)
class LoadRequest:
    """One chat completion, `max_tokens` long unless the model ends the answer before.

    `session` is the name of the conversation, "" for none. `prediction` is a text that the answer
    may repeat, "" for none. With a temperature above 0 the answer is sampled, by the seed.
    """

    messages: Sequence[dict[str, Any]]
    max_tokens: int
    stream: bool = True
    session: str = ""
    prediction: str = ""
    temperature: float = 0
    seed: int = 0


class RunningRequest:
    """A request on its way."""

    def __init__(self, ask: LoadRequest, sent: float, connection: _Connection) -> None:
        self._ask = ask
        self._sent = sent
        self._connection = connection

    async def more_events(self, count: int) -> None:
        """Wait until this many more events have arrived, or the stream has ended."""
        await self._connection.more_events(count)

    def hang_up(self) -> None:
        """Hang up, as a client does whose user has left."""
        self._connection.transport.abort()

    async def answer(self) -> MeasuredAnswer:
        """Wait for the end; what had arrived by then."""
        ended = await self._connection.ended
        arrivals = self._connection.arrivals
        return read_answer(self._sent, ended, arrivals, stream=self._ask.stream)


class LoadClient:
    """Sends requests to one server, with the server's name of the model."""

    def __init__(self, host: str, port: int, model: str) -> None:
        self._host = host
        self._port = port
        self._model = model

    async def start(self, ask: LoadRequest, model: str | None = None) -> RunningRequest:
        """Connect and send; returns before anything is answered."""
        body: dict[str, Any] = {
            "model": model or self._model,
            "messages": ask.messages,
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "stream": ask.stream,
        }
        if ask.temperature:
            body["seed"] = ask.seed
        if ask.prediction:
            body["prediction"] = {"type": "content", "content": ask.prediction}
        if ask.stream:
            body["stream_options"] = {"include_usage": True}
        request = self._request(
            "POST", "/v1/chat/completions", msgspec.json.encode(body), ask.session
        )
        sent = perf_counter()
        return RunningRequest(ask, sent, await self._connect(request))

    async def ask(self, ask: LoadRequest, model: str | None = None) -> MeasuredAnswer:
        """Send a request and return its whole answer."""
        return await (await self.start(ask, model)).answer()

    async def get(self, path: str) -> tuple[float, bytes]:
        """Return (seconds from before connecting to the end, body). Raises BenchmarkError."""
        return await self._call("GET", path)

    async def delete(self, path: str) -> None:
        """Have something forgotten. Raises BenchmarkError."""
        await self._call("DELETE", path)

    async def _call(self, method: str, path: str) -> tuple[float, bytes]:
        sent = perf_counter()
        connection = await self._connect(self._request(method, path, b""))
        ended = await connection.ended
        reader = ResponseReader()
        body = b"".join(reader.feed(data) for _, data in connection.arrivals)
        if reader.status != OK:
            raise BenchmarkError(f"{path}: HTTP status {reader.status}")
        return ended - sent, body

    async def _connect(self, request: bytes) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(request), self._host, self._port
        )
        return connection

    def _request(self, method: str, path: str, body: bytes, session: str = "") -> bytes:
        named = f"X-Session-Id: {session}\r\n" if session else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nConnection: close\r\n{named}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body
