"""Connections that keep the node waiting, and more of them than there may be."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlx_worker.api.middleware.connections import (
    HEALTH_ONLY_CONNECTIONS,
    MAX_FIELD_BYTES,
    MAX_HEADERS,
    MAX_LINE_BYTES,
)
from mlx_worker.config.schema import Config, ModelConfig, ServerConfig
from tests.processes import DEADLINE
from tests.server.asking import answer_of, ask, bare, exchange
from tests.server.conftest import SUPERVISOR, Connect, Connection, Serving, ready, served
from tests.supervisor_harness import NO_DISK, Fifo, eventually, soon

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
PAUSE = 0.02


def chat(text: str, *, stream: bool = True) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


async def until_end(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends; a reset is as good an end: a byte came behind it."""
    got = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := await reader.read(1 << 16):
            got += data
    return bytes(got)


async def running(url: str) -> int:
    found: int = (await ask(url, "/health")).json["models"]["m"]["running"]
    return found


# --- requests that do not come ----------------------------------------------------------------


async def test_a_connection_that_asks_nothing_is_closed(serving: Serving, connect: Connect) -> None:
    reader, _ = await connect(await serving(idle_timeout=0.1))
    assert await soon(reader.read()) == b""


async def test_a_connection_that_asks_nothing_more_is_closed(
    serving: Serving, connect: Connect
) -> None:
    reader, writer = await connect(await serving(idle_timeout=0.5))
    for _ in range(2):
        writer.write(HEALTH)
        assert (await answer_of(reader))[0] == 200
    assert await soon(reader.read()) == b""


async def test_a_head_that_drips_is_not_waited_for(serving: Serving, connect: Connect) -> None:
    """Each byte is news, but the head as a whole has a deadline."""
    reader, writer = await connect(await serving(idle_timeout=0.2))
    writer.write(b"GET /health HTTP/1.1\r\nX-Slow: ")
    end = asyncio.ensure_future(until_end(reader))
    async with asyncio.timeout(DEADLINE):
        while not end.done():
            writer.write(b"x")
            await asyncio.wait({end}, timeout=PAUSE)
    assert await end == b""


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/messages", b"/tokenize"])
async def test_a_body_that_pauses_too_long_is_a_408(
    serving: Serving, connect: Connect, path: bytes
) -> None:
    reader, writer = await connect(await serving(body_timeout=0.1))
    writer.write(HEAD % path + b'{"mess')
    status, body = await answer_of(reader)
    assert status == 408
    assert "after 6 bytes" in json.loads(body)["error"]["message"]


async def test_a_body_that_drips_is_a_408(serving: Serving, connect: Connect) -> None:
    reader, writer = await connect(await serving(body_timeout=0.2))
    writer.write(HEAD % b"/v1/chat/completions")
    answer = asyncio.ensure_future(answer_of(reader))
    async with asyncio.timeout(DEADLINE):
        while not answer.done():
            writer.write(b"x")
            await asyncio.wait({answer}, timeout=PAUSE)
    assert (await answer)[0] == 408


async def test_a_body_in_pieces_is_read_as_one(serving: Serving, connect: Connect) -> None:
    reader, writer = await connect(await serving())
    request = chat("one two", stream=False)
    for at in range(0, len(request), 7):
        writer.write(request[at : at + 7])
        await asyncio.sleep(0)
    status, body = await answer_of(reader)
    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == "one two"


# --- answers that are not taken -----------------------------------------------------------------


def small_socket(url: str) -> socket.socket:
    """A connection that holds little of what it is sent."""
    host, port = url.removeprefix("http://").split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    return sock


WORDS = [f"{i}{'x' * 20_000}" for i in range(600)]
"""More than all buffers on the way hold."""

LARGE = 16 << 20
"""The largest body that holds them."""


@pytest.mark.process
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_takes_nothing_loses_its_answer(
    serving: Serving, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    url = await serving(send_timeout=0.3, max_body_bytes=LARGE)
    with small_socket(url) as sock:
        await asyncio.to_thread(sock.sendall, chat(" ".join(WORDS), stream=stream))

        async def given_up() -> bool:
            return any("read nothing" in message for message in caplog.messages)

        await eventually(given_up)
        await eventually(lambda: is_idle(url))
        got = await asyncio.to_thread(drained, sock)
    assert 0 < len(got) < sum(map(len, WORDS))
    assert b"[DONE]" not in got
    assert (await ask(url, "/health")).json["metrics"]["requestsInFlight"] == 0


@pytest.mark.process
async def test_a_client_that_takes_nothing_frees_its_row(serving: Serving, pace: Fifo) -> None:
    """The generation that it does not read is cancelled, not only the connection."""
    url = await serving("--pace", pace.path, send_timeout=0.3, max_body_bytes=LARGE)
    with small_socket(url) as sock:
        await asyncio.to_thread(sock.sendall, chat(" ".join(WORDS)))
        pace.let(len(WORDS) - 1)
        await eventually(lambda: is_idle(url))


async def is_idle(url: str) -> bool:
    return await running(url) == 0


def drained(sock: socket.socket) -> bytes:
    """What had been sent before the end."""
    got = bytearray()
    try:
        while data := sock.recv(1 << 16):
            got += data
    except ConnectionResetError:
        pass
    return bytes(got)


@pytest.mark.process
async def test_a_client_that_reads_slowly_but_reads_gets_all_of_it(serving: Serving) -> None:
    url = await serving(send_timeout=5, max_body_bytes=LARGE)
    with small_socket(url) as sock:
        await asyncio.to_thread(sock.sendall, chat(" ".join(WORDS)))
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            data = await asyncio.to_thread(sock.recv, 1 << 17)
            assert data, "the node ended it"
            got = got[-16:] + data
    assert b"[DONE]" in got


# --- more than there may be -----------------------------------------------------------------------


STEPS = 1000
"""As many as a stream here may want."""


async def streaming(to: Connection, pace: Fifo) -> Connection:
    """Begin a stream, and wait until it is on its way; it has more to say."""
    reader, writer = to
    writer.write(chat("on " * STEPS))
    said = asyncio.ensure_future(reader.readuntil(b'"on"'))
    async with asyncio.timeout(DEADLINE):
        while not said.done():
            pace.let(1)  # it may have gone to another row
            await asyncio.wait({said}, timeout=PAUSE)
    await said
    return to


async def test_idle_connections_make_room_the_oldest_first(
    serving: Serving, connect: Connect
) -> None:
    url = await serving(max_connections=3)
    connections = []
    for _ in range(3):
        connections.append(await connect(url))
        connections[-1][1].write(HEALTH)
        assert (await answer_of(connections[-1][0]))[0] == 200
    (oldest, _), (second, writer), _ = connections
    assert (await ask(url, "/v1/models")).status == 200
    assert await soon(oldest.read()) == b""
    writer.write(HEALTH)
    assert (await answer_of(second))[0] == 200


async def test_where_all_are_at_work_one_more_may_only_ask_for_health(
    serving: Serving, connect: Connect, pace: Fifo
) -> None:
    url = await serving("--pace", pace.path, max_connections=2)
    streams = [await streaming(await connect(url), pace) for _ in range(2)]
    for path in ("/health", "/v1/cluster/health", "/health/live", "/v1/health/ready"):
        assert (await ask(url, path)).status == 200, path
    for path in ("/v1/models", "/v1/chat/completions"):
        answer = await ask(url, path)
        assert answer.status == 503
        assert answer.error["code"] == "too_many_connections"
        assert int(answer.headers["Retry-After"]) >= 1
    reader, writer = await connect(url)
    writer.write(HEALTH + HEALTH)
    assert (await answer_of(reader))[0] == 200
    assert await soon(reader.read()) == b"", "one answer, and no keeping alive"
    pace.let(STEPS)
    for reader, _ in streams:
        assert b"[DONE]" in await soon(reader.readuntil(b"\r\n0\r\n\r\n"))
    assert (await ask(url, "/v1/models")).status == 200


async def test_those_beside_are_counted_too(serving: Serving, connect: Connect, pace: Fifo) -> None:
    url = await serving("--pace", pace.path, max_connections=1)
    stream = await streaming(await connect(url), pace)
    beside = [await connect(url) for _ in range(HEALTH_ONLY_CONNECTIONS)]
    reader, _ = await connect(url)
    assert await soon(until_end(reader)) == b""
    for _, writer in [*beside, stream]:
        writer.close()

    async def free() -> bool:
        try:
            status, _ = await exchange(url, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return False  # sent away too
        return status == 200

    await eventually(free)


# --- heads that are too much ------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(
            b"GET /" + b"x" * MAX_LINE_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="a line"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (MAX_FIELD_BYTES + 1) + b"\r\n\r\n",
            id="header",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * (MAX_HEADERS + 1) + b"\r\n",
            id="headers",
        ),
        pytest.param(b"nonsense\r\n\r\n", id="no HTTP"),
    ],
)
async def test_a_head_that_is_too_much_is_a_400_and_the_end(
    serving: Serving, connect: Connect, head: bytes
) -> None:
    reader, writer = await connect(await serving())
    writer.write(head)
    status, body = await answer_of(reader)
    error: dict[str, Any] = json.loads(body)["error"]
    assert (status, error["code"]) == (400, "not_http")
    assert await soon(reader.read()) == b""


@pytest.fixture
def pace(tmp_path: Path) -> Any:
    with Fifo(tmp_path / "pace") as fifo:
        yield fifo


@pytest.mark.process
async def test_an_unread_answer_does_not_outlive_the_drain(nano: Path) -> None:
    """The client reads nothing, and only the end of the drain ends its connection."""
    config = Config(
        models=(ModelConfig(id="m", path="nano", default=True),),
        server=ServerConfig(port=0, models_dir=nano.parent, send_timeout=600, max_body_bytes=LARGE),
        supervisor=SUPERVISOR,
        cache=NO_DISK,
    )
    async with served(config) as url:
        await ready(url)
        sock = small_socket(url)
        await asyncio.to_thread(sock.sendall, chat(" ".join(WORDS)))
        await asyncio.to_thread(sock.recv, 1)  # the answer has begun
        await eventually(lambda: is_idle(url))  # and is generated, but not read
    # `served` has waited for the node's end, but not as long as a handler might have taken.
    with sock, contextlib.suppress(ConnectionError):
        assert b"[DONE]" not in await asyncio.to_thread(drained, sock)


PATIENT_DRAIN = replace(SUPERVISOR, drain_timeout=600)


def patient(nano: Path) -> Config:
    """A node that waits far longer for its streams and their readers than a test does."""
    return Config(
        models=(ModelConfig(id="m", path="nano", default=True),),
        server=ServerConfig(port=0, models_dir=nano.parent, send_timeout=600, max_body_bytes=LARGE),
        supervisor=PATIENT_DRAIN,
        cache=NO_DISK,
    )


@pytest.mark.process
async def test_a_second_signal_ends_an_answer_that_is_not_read(nano: Path) -> None:
    async with served(patient(nano)) as url:
        await ready(url)
        sock = small_socket(url)
        await asyncio.to_thread(sock.sendall, chat(" ".join(WORDS)))
        await asyncio.to_thread(sock.recv, 1)  # the answer has begun
        await eventually(lambda: is_idle(url))  # and is generated, but not read
        os.kill(os.getpid(), signal.SIGTERM)

        async def takes_no_connection() -> bool:
            try:
                _, writer = await bare(url)
            except ConnectionError:
                return True
            writer.close()
            return False

        await eventually(takes_no_connection)
        os.kill(os.getpid(), signal.SIGTERM)
    # `served` has waited for the node's end: without the second signal it would take ten minutes.
    with sock, contextlib.suppress(ConnectionError):
        assert b"[DONE]" not in await asyncio.to_thread(drained, sock)


async def test_a_second_signal_ends_a_stream_that_runs(nano: Path, pace: Fifo) -> None:
    async with served(patient(nano), "--pace", pace.path) as url:
        await ready(url)
        reader, writer = await streaming(await bare(url), pace)
        os.kill(os.getpid(), signal.SIGTERM)

        async def drains() -> bool:
            status: str = (await ask(url, "/health")).json["status"]
            return status == "offline"

        await eventually(drains)
        os.kill(os.getpid(), signal.SIGTERM)
        rest = await soon(reader.read())
        writer.close()
    assert b'"code":"node_draining"' in rest.replace(b" ", b"")
    assert b"[DONE]" not in rest
