"""A client that does not read for a while delays no other client, and misses no output."""

import asyncio
import json
import socket
from typing import Any

from tests.front.asking import Answer, Front, Serve, asked
from tests.supervisor_harness import eventually, soon

WORDS = 4_000
"""Their events take more than is kept for a connection that is not read, at either end."""
LITTLE = 4096
"""Bytes that the kernel keeps at each end of a connection."""


def keep_little(front: Front) -> None:
    """Have the kernel keep little of what the front sends; its connections inherit this."""
    server: Any = front.client.server
    (site,) = server.runner.sites
    site._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LITTLE)


def sent(host: str, port: int, body: bytes, version: str = "HTTP/1.1") -> socket.socket:
    """A request on a connection that keeps little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
    connection.connect((host, port))
    head = (
        f"POST /v1/chat/completions {version}\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def unframed(chunked: bytes) -> bytes:
    """The body of a response in HTTP's chunks."""
    _, _, rest = chunked.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        body, rest = body + rest[:length], rest[length + 2 :]
    return body


async def test_what_piled_up_for_a_client_that_lags_comes_in_few_events(serve: Serve) -> None:
    front = await serve()
    keep_little(front)
    server, served = front.client.server, front.node.models["m"]
    text = " ".join(f"w{i}" for i in range(WORDS))
    body = json.dumps(asked(text, stream=True)).encode()
    assert server.port is not None
    lagging = await asyncio.to_thread(sent, server.host, server.port, body)
    first = await asyncio.to_thread(lagging.recv, 1)  # it has started

    async def is_generated() -> bool:
        in_flight = (await front.model())["metrics"]["requestsInFlight"]
        return in_flight == 1 and not served.dispatcher.is_busy

    await eventually(is_generated)
    others = [await front.chat("still there", stream=streamed) for streamed in (True, False)]
    assert [answer.text for answer in others] == ["still there"] * 2
    rest = await soon(asyncio.to_thread(read_to_the_end, lagging))
    answer = Answer(200, {"Content-Type": "text/event-stream"}, unframed(first + rest))
    assert answer.text == text
    assert answer.events[-1] == "[DONE]"
    assert len(answer.events) < WORDS


async def test_a_client_that_lags_and_leaves_ends_its_generation(serve: Serve) -> None:
    front = await serve()
    keep_little(front)
    server = front.client.server
    text = " ".join(f"w{i}" for i in range(WORDS))
    body = json.dumps(asked(text, stream=True)).encode()
    assert server.port is not None
    lagging = await asyncio.to_thread(sent, server.host, server.port, body)
    await asyncio.to_thread(lagging.recv, 1)
    lagging.close()

    async def is_over() -> bool:
        metrics = (await front.model())["metrics"]
        return bool(metrics["requestsInFlight"] == 0)

    await eventually(is_over)
    assert (await front.chat("still there")).text == "still there"


async def test_a_client_of_http_1_0_gets_its_events_bare(serve: Serve) -> None:
    """It knows no chunks: the end of the connection is the end of the stream."""
    front = await serve()
    server = front.client.server
    body = json.dumps(asked("one two three", stream=True)).encode()
    assert server.port is not None
    connection = await asyncio.to_thread(sent, server.host, server.port, body, "HTTP/1.0")
    said = await soon(asyncio.to_thread(read_to_the_end, connection))
    head, _, events = said.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    answer = Answer(200, {"Content-Type": "text/event-stream"}, events)
    assert answer.text == "one two three"
    assert answer.events[-1] == "[DONE]"
