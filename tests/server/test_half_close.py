"""A client that closes its side gets its answers; a client that is gone frees its row.

RFC 9112 6.3 (the note on half-closed connections). Both begin alike: the node reads the end of the
client's bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.api.middleware.half_close import CONTINUE
from tests.rounds import variants
from tests.server.asking import ask
from tests.supervisor_harness import Fifo, eventually, kill_worker, soon

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.conftest import Connect, Connection, Serving

MESSAGES = [{"role": "user", "content": "one two"}]
CHAT = ("/v1/chat/completions", {"messages": MESSAGES})
READY = [
    ("/health", None, b'"status"'),
    ("/health/live", None, b'"live"'),
    ("/v1/models", None, b'"m"'),
    ("/metrics", None, b"mlx_worker_"),
    ("/cache", None, b'"tokens"'),
    ("/", None, b"</html>"),
    ("/v1/messages/count_tokens", {"messages": MESSAGES}, b'"input_tokens"'),
    ("/tokenize", {"prompt": "one"}, b'"count"'),
    ("/v1/chat/completions", {"messages": 5}, b'"invalid_request_error"'),
    ("/nowhere", None, b'"no_such_path"'),
]
GENERATED = [
    ("/v1/chat/completions", {"messages": MESSAGES}, b"[DONE]"),
    ("/v1/completions", {"prompt": "one two"}, b"[DONE]"),
    ("/v1/responses", {"input": "one two"}, b"response.completed"),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}, b"message_stop"),
]


def request(path: str, body: Any, version: str = "1.1") -> bytes:
    method = "GET" if body is None else "POST"
    data = b"" if body is None else json.dumps(body).encode()
    return (
        f"{method} {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def half_closed(connection: Connection, data: bytes) -> asyncio.StreamReader:
    """Send these bytes and the end of all bytes."""
    reader, writer = connection
    writer.write(data)
    writer.write_eof()
    return reader


@pytest.fixture
def pace(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "pace") as fifo:
        yield fifo


async def is_idle(url: str) -> bool:
    return bool((await ask(url, "/health")).json["models"]["m"]["running"] == 0)


async def is_loading(url: str) -> bool:
    return bool((await ask(url, "/health")).json["models"]["m"]["state"] == "loading")


async def is_busy(url: str) -> bool:
    return not await is_idle(url)


# --- a client that waits for its answer ------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(("path", "body", "part"), READY, ids=[case[0] for case in READY])
async def test_what_is_ready_at_once_is_answered_and_then_it_ends(
    serving: Serving, connect: Connect, path: str, body: Any, part: bytes, version: str
) -> None:
    connection = await connect(await serving())
    got = await soon(half_closed(connection, request(path, body, version)).read())
    assert part in got


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("path", "body", "last"), GENERATED, ids=[case[0] for case in GENERATED])
async def test_a_generation_is_answered_to_its_end(
    serving: Serving,
    connect: Connect,
    path: str,
    body: dict[str, Any],
    last: bytes,
    stream: bool,
) -> None:
    connection = await connect(await serving())
    data = request(path, body | {"stream": stream})
    got = await soon(half_closed(connection, data).read())
    assert (last if stream else b'"usage"') in got


async def test_requests_sent_ahead_are_all_answered(serving: Serving, connect: Connect) -> None:
    connection = await connect(await serving())
    several = request("/health", None) + request(*CHAT) + request("/v1/models", None)
    got = await soon(half_closed(connection, several).read())
    assert got.count(b"HTTP/1.1 200 ") == 3
    assert b'"object":"list"' in got


async def test_a_client_is_asked_for_by_an_interim_answer_and_gets_its_own_later(
    serving: Serving, connect: Connect, pace: Fifo
) -> None:
    connection = await connect(await serving("--pace", pace.path))
    reader = half_closed(connection, request(*CHAT))
    for _ in range(3):  # a client that is gone would not be there at the second
        assert await soon(reader.readexactly(len(CONTINUE))) == CONTINUE
    pace.let(10)
    got = await soon(reader.read())
    assert got.startswith((b"HTTP/1.1 200 ", CONTINUE))
    assert b'"usage"' in got


async def test_a_stream_that_says_nothing_has_comments_and_goes_on(
    serving: Serving, connect: Connect, pace: Fifo
) -> None:
    connection = await connect(await serving("--pace", pace.path))
    reader = half_closed(connection, request(CHAT[0], CHAT[1] | {"stream": True}))
    for _ in range(3):
        await soon(reader.readuntil(b"\r\n3\r\n:\n\n"))
    pace.let(10)
    got = await soon(reader.read())
    assert b"[DONE]" in got
    assert got.endswith(b"\r\n0\r\n\r\n")


# --- a client that is gone -------------------------------------------------------------------


@pytest.mark.parametrize("version", variants(["1.1", "1.0"], ["1.1"]))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("path", "body", "last"), GENERATED, ids=[case[0] for case in GENERATED])
async def test_a_client_that_is_gone_frees_its_row_while_the_model_says_nothing(
    serving: Serving,
    connect: Connect,
    pace: Fifo,
    path: str,
    body: dict[str, Any],
    last: bytes,
    stream: bool,
    version: str,
) -> None:
    url = await serving("--pace", pace.path)
    _, writer = await connect(url)
    writer.write(request(path, body | {"stream": stream}, version))
    await eventually(lambda: is_busy(url))
    writer.close()
    await eventually(lambda: is_idle(url))
    assert (await ask(url, "/health")).json["metrics"]["requestsInFlight"] == 0


async def test_a_client_that_goes_after_it_closed_its_side_frees_its_row(
    serving: Serving, connect: Connect, pace: Fifo
) -> None:
    url = await serving("--pace", pace.path)
    connection = await connect(url)
    reader = half_closed(connection, request(*CHAT))
    assert await soon(reader.readexactly(len(CONTINUE))) == CONTINUE
    connection[1].close()
    await eventually(lambda: is_idle(url))


async def test_client_that_goes_while_its_early_stream_waits_frees_its_place(
    serving: Serving, connect: Connect, tmp_path: Path
) -> None:
    """Its process was killed, and the next one loads."""
    plan = tmp_path / "plan"
    plan.write_text("\n--load-for 60 --reports 200")
    url = await serving("--plan", plan, first_byte_timeout=0.05)
    kill_worker((await ask(url, "/health")).json["models"]["m"]["pid"])
    await eventually(lambda: is_loading(url))
    connection = await connect(url)
    reader = half_closed(connection, request(CHAT[0], CHAT[1] | {"stream": True}))
    await soon(reader.readuntil(b"\r\n3\r\n:\n\n"))
    connection[1].close()
    await eventually(lambda: is_idle(url))


async def test_a_generation_for_http_1_0_that_is_not_ready_is_dropped(
    serving: Serving, connect: Connect, pace: Fifo
) -> None:
    """Nothing may be written to such a client that would show whether the client is there."""
    url = await serving("--pace", pace.path)
    connection = await connect(url)
    assert await soon(half_closed(connection, request(*CHAT, "1.0")).read()) == b""
    await eventually(lambda: is_idle(url))


# --- nothing to answer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost", id="half a head"),
        pytest.param(request(*CHAT)[:-5], id="half a body"),
    ],
)
async def test_a_request_that_is_not_whole_has_no_answer(
    serving: Serving, connect: Connect, data: bytes
) -> None:
    connection = await connect(await serving())
    assert await soon(half_closed(connection, data).read()) == b""


async def test_an_idle_connection_ends(serving: Serving, connect: Connect) -> None:
    reader, writer = await connect(await serving())
    writer.write(request("/health/live", None))
    await soon(reader.readuntil(b'"live"}'))
    writer.write_eof()
    assert await soon(reader.read()) == b""
