"""A generation outlives its client: the same request joins it, over sockets, with fake workers."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from mlx_worker.api.generation.lingering.table import RECORDED_REQUESTS
from mlx_worker.config.schema import ServerConfig
from tests.dialects import ALL, CHAT, MESSAGES, Dialect
from tests.front.asking import Answer, Front, Serve, asked, model
from tests.front.test_metrics import value
from tests.front.test_requests import is_free, reaches, rows
from tests.sse import events_of
from tests.supervisor_harness import DEADLINE, QUICK, Fifo, eventually, kill_worker, soon

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from mlx_worker.api.generation.lingering.table import RecordedRequests

WORDS: Final = "one two three four"
STEPS: Final = len(WORDS.split()) + 2
SESSION: Final = {"X_Session_Id": "s-1"}
KEY: Final = {"Idempotency_Key": "k-1"}
LIBRARY: Final = {"X_Stainless_Retry_Count": "0"}
RETRY: Final = {"X_Stainless_Retry_Count": "1"}

ATTEMPTS: Final = [(SESSION, SESSION), (KEY, KEY), (LIBRARY, RETRY)]
"""The headers of the first attempt, and of the one after the loss of the connection."""

RANDOM: Final = re.compile(rb'(?<=")(?:chatcmpl|cmpl|resp|rs|msg|fc|ctc)[-_][0-9a-f]+(?=")')
CREATED: Final = re.compile(rb'(?<="created":)\d+|(?<="created_at":)\d+')
SEED: Final = re.compile(rb'(?<="seed":)\d+')
SEQUENCE: Final = re.compile(rb'(?<="sequence_number":)\d+')
STRING: Final = rb'"((?:[^"\\]|\\.)*)"'
TEXT: Final = re.compile(rb'(?:(?<="content":)|(?<="text":)|(?<="delta":))' + STRING)
"""The strings of "content", "text" and "delta"."""


def table(front: Front) -> RecordedRequests:
    return front.client.server.app[RECORDED_REQUESTS]  # type: ignore[attr-defined,no-any-return]


def plain(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return each event of a body without its text, and its text.

    Left out is what is drawn anew for each response. Events that differ in their text alone are
    joined: how many tokens one event has is a matter of when the front was told of them.
    """
    for pattern in (RANDOM, CREATED, SEED, SEQUENCE):
        body = pattern.sub(b"", body)
    events: list[tuple[bytes, bytes]] = []
    for event in body.split(b"\n\n"):
        text = b"".join(TEXT.findall(event))
        shape = TEXT.sub(b"", event)
        if events and events[-1][0] == shape:
            text = events.pop()[1] + text
        events.append((shape, text))
    return events


async def leave(front: Front, response: ClientResponse) -> bytes:
    """Read what has come, close the connection, and wait until the node has noticed."""
    got = bytearray()
    while not response.content.at_eof() and response.content.total_bytes > len(got):
        got += await response.content.readany()
    response.close()
    await eventually(lambda: has_clients(front, 0))
    return bytes(got)


async def has_clients(front: Front, *numbers: int) -> bool:
    """Return True if the requests that run have these numbers of clients."""
    return [row["clients"] for row in await rows(front)] == list(numbers)


async def begin(
    front: Front, pace: Fifo, body: Any, steps: int, path: str = CHAT.path, **headers: str
) -> ClientResponse:
    """Start a stream, and wait until the client has the output of this number of steps."""
    response = await soon(front.open(path, body, **headers))
    pace.let(steps)
    if steps:

        async def so() -> bool:
            return [row["outputTokens"] for row in await rows(front)] == [steps]

        await eventually(so)
    return response


async def counts(front: Front, dialect: str = "chat") -> tuple[float, float, float]:
    """Requests that ended well, tokens of prompts, and requests that joined another."""
    return (
        await value(
            front, "mlx_worker_requests_total", dialect=dialect, outcome="success", model="m"
        ),
        await value(front, "mlx_worker_prompt_tokens_total", model="m"),
        await value(front, "mlx_worker_joined_requests_total", dialect=dialect, model="m"),
    )


# --- joining ------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", ATTEMPTS, ids=["session", "key", "library"])
async def test_lingering_stream_is_joined_by_the_next_attempt(
    serve: Serve, pace: Fifo, headers: tuple[dict[str, str], dict[str, str]]
) -> None:
    front = await serve("--pace", pace.path)
    body = asked(WORDS, stream=True, temperature=1)
    first, again = headers
    got = await leave(front, await begin(front, pace, body, 2, X_Request_Id="r-1", **first))
    asking = asyncio.ensure_future(front.ask(CHAT.path, body, **again))
    (row,) = await reaches(front, "generating")
    pace.let(STEPS)
    answer = await soon(asking)
    assert answer.body.startswith(got)
    assert got.count(b"data: ") >= 2
    assert (answer.text, answer.headers["X-Joined"], row["id"]) == (WORDS, "r-1", "r-1")
    assert await counts(front) == (1, 4, 1)


@pytest.mark.parametrize("dialect", ALL, ids=repr)
@pytest.mark.parametrize("stream", [True, False])
async def test_lingering_response_has_the_bytes_of_an_undisturbed_one(
    serve: Serve, hold: Fifo, dialect: Dialect, stream: bool
) -> None:
    front = await serve("--hold-start", hold.path)
    body = dialect.body(WORDS, stream=stream, **{dialect.limit: 9})
    hold.let(1)
    undisturbed = await front.ask(dialect.path, body)
    await is_free(front)
    asking = asyncio.ensure_future(front.ask(dialect.path, body, **KEY))
    await reaches(front, "prefill")
    asking.cancel()
    await eventually(lambda: has_clients(front, 0))
    asking = asyncio.ensure_future(front.ask(dialect.path, body, **KEY))
    await eventually(lambda: has_clients(front, 1))
    hold.let(1)
    joined = await soon(asking)
    third = await front.ask(dialect.path, body, **KEY)
    assert plain(joined.body) == plain(undisturbed.body)
    assert third.body == joined.body
    kept = ("Content-Type", "X-Cache-Hit", "X-Model")
    assert [joined.headers[name] for name in kept] == [undisturbed.headers[name] for name in kept]


async def test_lingering_plain_request_ends_with_its_client(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    response = await begin(front, pace, asked(WORDS, stream=True), 1)
    assert table(front).kept_bytes == 0
    response.close()
    await is_free(front)
    (row,) = await rows(front, "recent")
    assert row["state"] == "cancelled"


async def test_lingering_request_ends_when_no_client_comes_in_time(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, server=ServerConfig(linger=0.05))
    response = await begin(front, pace, asked(WORDS, stream=True), 1, **SESSION)
    response.close()
    await is_free(front)
    (row,) = await rows(front, "recent")
    assert (row["state"], row["outputTokens"]) == ("cancelled", 1)
    pace.let(STEPS)
    answer = await front.ask(CHAT.path, asked(WORDS, stream=True), **SESSION)
    assert (answer.text, answer.headers.get("X-Joined")) == (WORDS, None)


async def test_lingering_response_that_ended_is_read_once_by_its_session(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path)
    body = asked(WORDS, stream=True)
    got = await leave(front, await begin(front, pace, body, 2, **SESSION))
    pace.let(STEPS)
    await is_free(front)
    answer = await front.ask(CHAT.path, body, **SESSION)
    assert answer.body.startswith(got)
    pace.let(STEPS)
    new = await front.ask(CHAT.path, body, **SESSION)
    assert (new.text, new.headers.get("X-Joined")) == (WORDS, None)
    assert await counts(front) == (2, 8, 1)


@pytest.mark.parametrize("stream", [True, False])
async def test_lingering_key_gives_the_same_answer_again(serve: Serve, stream: bool) -> None:
    front = await serve()
    body = asked(WORDS, stream=stream, temperature=1)
    first = await front.ask(CHAT.path, body, **KEY)
    again = await front.ask(CHAT.path, body, X_Request_Id="r-2", **KEY)
    assert again.body == first.body
    assert again.headers["X-Request-Id"] == "r-2"
    assert again.headers["X-Joined"] == first.headers["X-Request-Id"]
    assert again.headers["X-Session-Id"] == first.headers["X-Session-Id"]


async def test_lingering_session_with_a_reader_is_not_joined(serve: Serve, pace: Fifo) -> None:
    """Two equal requests of one session at the same time are two requests."""
    front = await serve("--pace", pace.path)
    body = asked(WORDS, stream=True)
    first = await begin(front, pace, body, 1, **SESSION)
    asking = asyncio.ensure_future(front.ask(CHAT.path, body, **SESSION))
    await reaches(front, "prefill", "generating")
    pace.let(2 * STEPS)
    assert (await soon(asking)).headers.get("X-Joined") is None
    assert (await soon(first.read())).count(b"[DONE]") == 1


async def test_lingering_two_clients_read_and_one_that_leaves_ends_nothing(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path)
    body = asked(WORDS, stream=True)
    first = await begin(front, pace, body, 1, **KEY)
    second = await soon(front.open(CHAT.path, body, **KEY))
    await eventually(lambda: has_clients(front, 2))
    first.close()
    await eventually(lambda: has_clients(front, 1))
    pace.let(STEPS)
    text = await soon(second.read())
    assert events_of(text)[-1].data == "[DONE]"
    assert await counts(front) == (1, 4, 1)


# --- refusals and isolation ---------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ALL, ids=repr)
async def test_lingering_key_with_another_body_is_refused(serve: Serve, dialect: Dialect) -> None:
    front = await serve()
    await front.ask(dialect.path, dialect.body("one", **{dialect.limit: 9}), **KEY)
    other = await front.ask(dialect.path, dialect.body("two", **{dialect.limit: 9}), **KEY)
    assert other.status == (400 if dialect is MESSAGES else 422)
    assert "Idempotency-Key" in dialect.read_error(other.json)


async def test_lingering_key_that_is_no_text_is_refused(serve: Serve) -> None:
    front = await serve()
    answer = await front.ask(CHAT.path, asked("one"), Idempotency_Key="k" * 256)
    assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")


async def test_lingering_refusal_is_not_joined(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=1, max_queue=0),))
    busy = asyncio.ensure_future(front.chat("one"))
    await front.reaches(running=1)
    refused = await front.ask(CHAT.path, asked(WORDS), **KEY)
    assert refused.status == 429
    pace.let(3)
    await soon(busy)
    pace.let(STEPS)
    answer = await front.ask(CHAT.path, asked(WORDS), **KEY)
    assert (answer.status, answer.text, answer.headers.get("X-Joined")) == (200, WORDS, None)


async def test_lingering_broken_stream_is_not_joined(serve: Serve) -> None:
    front = await serve("--fail-after-tokens", "2")
    broken = await front.ask(CHAT.path, asked(WORDS, stream=True), **KEY)
    again = await front.ask(CHAT.path, asked(WORDS, stream=True), **KEY)
    assert "error" in broken.events[-1]
    assert again.headers.get("X-Joined") is None


async def test_lingering_other_key_joins_nothing(serve: Serve, pace: Fifo, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann:aaaaaaaaaaaaaaaa\nbob:bbbbbbbbbbbbbbbb\n")
    keys.chmod(0o600)
    front = await serve("--pace", pace.path, server=ServerConfig(api_keys_file=keys))
    ann, bob = "Bearer aaaaaaaaaaaaaaaa", "Bearer bbbbbbbbbbbbbbbb"
    body = asked(WORDS, stream=True)
    pace.let(STEPS)
    first = await front.ask(CHAT.path, body, Authorization=ann, **KEY)
    pace.let(STEPS)
    other = await front.ask(CHAT.path, body, Authorization=bob, **KEY)
    same = await front.ask(CHAT.path, body, Authorization=ann, **KEY)
    assert other.headers.get("X-Joined") is None
    assert same.headers["X-Joined"] == first.headers["X-Request-Id"]
    assert same.body == first.body != other.body


# --- crashes, operators, the end of the node ----------------------------------------------------


async def test_lingering_generation_resumes_after_a_crash_that_no_client_sees(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path)
    body = asked(WORDS, stream=True)
    got = await leave(front, await begin(front, pace, body, 2, **SESSION))
    kill_worker((await front.model())["pid"])
    await reaches(front, "resuming")
    asking = asyncio.ensure_future(front.ask(CHAT.path, body, **SESSION))
    pace.let(STEPS)
    answer = await soon(asking)
    assert answer.body.startswith(got)
    assert answer.text == WORDS
    assert await counts(front) == (1, 4, 1)


async def test_lingering_request_is_ended_by_an_operator(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    body = asked(WORDS, stream=True)
    await leave(front, await begin(front, pace, body, 1, X_Request_Id="r-1", **SESSION))
    answer = await front.ask("/admin/requests/r-1/cancel", method="POST")
    assert answer.status == 200
    await is_free(front)
    (row,) = await rows(front, "recent")
    assert (row["state"], row["error"]) == ("cancelled", "cancelled_by_operator")
    assert table(front).kept_bytes == 0


async def test_lingering_response_that_is_too_large_is_not_kept(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    table(front).max_recorded = 500
    body = asked(WORDS, stream=True)
    first = await begin(front, pace, body, 3, **KEY)
    refused = await front.ask(CHAT.path, body, **KEY)
    assert (refused.status, refused.error["code"]) == (409, "cannot_join")
    assert refused.headers["X-Should-Retry"] == "false"
    pace.let(STEPS)
    assert (await soon(first.read())).endswith(b"data: [DONE]\n\n")
    assert table(front).kept_bytes == 0


async def test_lingering_large_response_ends_with_its_client(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    table(front).max_recorded = 500
    first = await begin(front, pace, asked(WORDS, stream=True), 3, **KEY)
    first.close()
    await is_free(front)


def kept(front: Front) -> int:
    return table(front).kept_bytes


async def test_lingering_oldest_responses_leave_when_there_are_too_many(serve: Serve) -> None:
    front = await serve()
    for number in range(4):
        await front.ask(CHAT.path, asked(WORDS), Idempotency_Key=f"k-{number}")
        # Room for two answers, and for a part of a third one.
        table(front).max_ended = table(front).max_ended if number else 5 * kept(front) // 2
    oldest, newest = [
        await front.ask(CHAT.path, asked(WORDS), Idempotency_Key=name) for name in ("k-0", "k-3")
    ]
    assert kept(front) <= table(front).max_ended
    assert (oldest.headers.get("X-Joined"), "X-Joined" in newest.headers) == (None, True)


async def test_lingering_thirty_two_clients_get_their_own_answers_back(
    serve: Serve, pace: Fifo
) -> None:
    """All requests are equal: each attempt joins one that no other attempt has joined."""
    front = await serve("--pace", pace.path, models=(model(max_concurrency=8),))
    body = asked(WORDS, stream=True, temperature=1)
    pending = [asyncio.ensure_future(front.open(CHAT.path, body, **LIBRARY)) for _ in range(32)]
    await eventually(lambda: has_clients(front, *[1] * 32))
    for client in pending:  # in the queue, or without a token
        if not client.cancel():
            client.result().close()
    await eventually(lambda: has_clients(front, *[0] * 32))
    again = [asyncio.ensure_future(front.ask(CHAT.path, body, **RETRY)) for _ in range(32)]
    await eventually(lambda: has_clients(front, *[1] * 32))
    pace.let(32 * STEPS)
    answers: list[Answer] = await soon(asyncio.gather(*again))
    assert {answer.text for answer in answers} == {WORDS}
    assert len({answer.headers["X-Joined"] for answer in answers}) == 32
    assert len({answer.events[0]["id"] for answer in answers}) == 32
    assert await counts(front) == (32, 32 * 4, 32)


async def test_lingering_generation_is_joined_while_the_node_drains(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, timings=replace(QUICK, drain=DEADLINE))
    body = asked(WORDS, stream=True)
    got = await leave(front, await begin(front, pace, body, 2, **SESSION))
    stopping = asyncio.ensure_future(front.node.stop())
    await eventually(lambda: _is_draining(front))
    refused = await front.ask(CHAT.path, asked("another"))
    assert refused.error["code"] == "node_draining"
    asking = asyncio.ensure_future(front.ask(CHAT.path, body, **SESSION))
    await eventually(lambda: has_clients(front, 1))
    pace.let(STEPS)
    answer = await soon(asking)
    assert answer.body.startswith(got)
    assert answer.text == WORDS
    await soon(stopping)


async def _is_draining(front: Front) -> bool:
    return front.node.draining
