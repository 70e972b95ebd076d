"""HTTP/1.0: a body without a length ends with its connection, whatever the client asked for.

RFC 9112 6.3 (how the end of a body is known) and 9.3 (which connections stay).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.asking import answer_of
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from tests.server.conftest import Connect, Serving

MESSAGES = [{"role": "user", "content": "one two"}]
STREAMED = [
    ("/v1/chat/completions", {"messages": MESSAGES}, b"[DONE]"),
    ("/v1/completions", {"prompt": "one two"}, b"[DONE]"),
    ("/v1/responses", {"input": "one two"}, b"response.completed"),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}, b"message_stop"),
]
WHOLE = ["/health", "/v1/models", "/metrics", "/openapi.json", "/nowhere", "/v1/models/nope"]


def request(method: str, path: str, body: Any = None, *headers: str) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.0", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join((*lines, "", "")).encode() + data


KEPT = pytest.mark.parametrize(
    "headers", [(), ("Connection: keep-alive",)], ids=["closing", "keep-alive"]
)


@KEPT
@pytest.mark.parametrize(("path", "body", "last"), STREAMED, ids=[case[0] for case in STREAMED])
async def test_a_stream_ends_by_closing_and_has_no_chunks(
    serving: Serving,
    connect: Connect,
    path: str,
    body: dict[str, Any],
    last: bytes,
    headers: tuple[str, ...],
) -> None:
    reader, writer = await connect(await serving())
    writer.write(request("POST", path, body | {"stream": True}, *headers))
    head, _, events = (await soon(reader.read())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    for name in (b"transfer-encoding", b"content-length", b"keep-alive"):
        assert name not in head.lower()
    assert last in events
    assert all(not line or line.startswith((b"data: ", b"event: ")) for line in events.split(b"\n"))


@KEPT
@pytest.mark.parametrize("path", WHOLE)
async def test_http_1_0_whole_answer_has_a_length_and_keeps_the_connection(
    serving: Serving, connect: Connect, path: str, headers: tuple[str, ...]
) -> None:
    reader, writer = await connect(await serving())
    for _ in range(2 if headers else 1):
        writer.write(request("GET", path, None, *headers))
        head = await soon(reader.readuntil(b"\r\n\r\n"))
        assert (b"connection: keep-alive" in head.lower()) == bool(headers)
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert len(await soon(reader.readexactly(length))) == length
    if not headers:
        assert await soon(reader.read()) == b""


@KEPT
async def test_an_event_stream_of_operators_ends_by_closing(
    serving: Serving, connect: Connect, headers: tuple[str, ...]
) -> None:
    url = await serving()
    reader, writer = await connect(url)
    writer.write(request("GET", "/admin/events/stream", None, *headers))
    head = await soon(reader.readuntil(b"\r\n\r\n"))
    assert b"transfer-encoding" not in head.lower()
    assert b"keep-alive" not in head.lower()
    assert (await soon(reader.readline())).startswith(b"id: ")


@KEPT
async def test_a_generation_in_one_piece_may_be_followed_by_another(
    serving: Serving, connect: Connect, headers: tuple[str, ...]
) -> None:
    reader, writer = await connect(await serving())
    for _ in range(2 if headers else 1):
        writer.write(request("POST", "/v1/chat/completions", {"messages": MESSAGES}, *headers))
        status, body = await answer_of(reader)
        assert status == 200
        assert json.loads(body)["choices"][0]["message"]["content"] == "one two"
