"""Clients of a real model leave at every token, and their next attempt gets the whole answer.

The answer is compared with the one of a client that stayed. Every generation reads its prompt once.
In some tests the child is killed as well, while no client reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Final

import aiohttp
import psutil
import pytest

from tests.faults.failing_harness import is_held, running_failing_node, set_fault
from tests.faults.failing_model import HOLD, Fault
from tests.faults.test_every_token import ASKED, BODIES, STEPS, TOKENS, Heard
from tests.processes import RunningNode, eventually
from tests.rounds import rounds
from tests.sse import events_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STRIDE: Final = rounds(4, 4, 1)
"""Every token in `tox -e soak`, every fourth in `tox -e full`."""

CLIENTS: Final = 32
FEW: Final = 64
"""Bytes that a client reads at a time."""
TOKEN: Final = b'"top_logprobs"'
"""What the event of a token has once for each token."""
PREFILL: Final = -1
"""In place of a number of tokens: the client leaves before there is any."""

BODY: Final = ASKED | BODIES[1] | {"return_token_ids": False}
COUNTED: Final = (
    'requests_total{dialect="chat",model="tiny",outcome="success"}',
    'prompt_tokens_total{model="tiny"}',
    'joined_requests_total{dialect="chat",model="tiny"}',
)


def heard(body: bytes) -> Heard:
    said = Heard()
    for event in events_of(body):
        said.add(event.data)
    assert said.done
    return said


def is_same(one: Heard, other: Heard) -> bool:
    """True if two streams said the same; how the tokens were cut into events may differ."""
    said = [(item.text, item.tokens, item.finish, item.counts) for item in (one, other)]
    return said[0] == said[1]


def counts(node: RunningNode) -> list[float]:
    lines = node.ask("/metrics").body.decode().splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return [float(figures.get(f"mlx_worker_{name}", 0)) for name in COUNTED]


def clients_of(node: RunningNode, id_: str) -> int:
    """The clients that read the response of this request; 0 also after its end."""
    live = node.ask("/admin/requests").json["live"]
    return sum(row["clients"] for row in live if row["id"] == id_)


def is_live(node: RunningNode, id_: str) -> bool:
    return any(row["id"] == id_ for row in node.ask("/admin/requests").json["live"])


def part(url: str, id_: str, tokens: int) -> bytes:
    """Read a stream to this number of tokens; the rest is left unread, as by a killed client."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    body = json.dumps(BODY).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nX-Session-Id: {id_}\r\n"
    head += f"X-Request-Id: {id_}\r\nContent-Length: {len(body)}\r\n\r\n"
    received = b""
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + body)
        while received.count(TOKEN) < tokens:
            received += client.recv(FEW)
    return unframed(received)


def unframed(received: bytes) -> bytes:
    """Return the whole events of a response in chunks, of which some may be missing."""
    _, _, rest = received.partition(b"\r\n\r\n")
    body = b""
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body[: body.rfind(b"\n\n") + 2]


async def whole(session: aiohttp.ClientSession, url: str, id_: str) -> tuple[bytes, str]:
    headers = {"X-Session-Id": id_}
    async with session.post(url, json=BODY, headers=headers) as response:
        return await response.read(), response.headers.get("X-Joined", "")


@pytest.fixture(scope="module")
def expected(node: RunningNode) -> Heard:
    said = heard(node.ask("/v1/chat/completions", BODY).body)
    assert len(said.tokens) == TOKENS
    return said


@pytest.mark.full
@pytest.mark.parametrize("tokens", range(1, TOKENS, STRIDE))
def test_lingering_stream_of_a_client_that_left_is_said_whole(
    node: RunningNode, expected: Heard, tokens: int
) -> None:
    async def leave_and_return() -> tuple[bytes, bytes, str]:
        async with aiohttp.ClientSession() as session:
            got = await asyncio.to_thread(part, url, id_, tokens)
            await asyncio.to_thread(eventually, lambda: clients_of(node, id_) == 0)
            return got, *await whole(session, url, id_)

    url, id_ = f"{node.url}/v1/chat/completions", f"left-{tokens}"
    before = counts(node)
    got, body, joined = asyncio.run(leave_and_return())
    assert body.startswith(got)
    assert joined == id_
    assert is_same(heard(body), expected)
    assert [after - of for after, of in zip(counts(node), before, strict=True)] == [
        1,
        expected.counts[0],
        1,
    ]


@pytest.mark.full
def test_lingering_clients_that_left_together_each_return_to_their_own(
    node: RunningNode, expected: Heard
) -> None:
    async def leave_and_return() -> list[tuple[bytes, bytes, str]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            parts = await asyncio.gather(
                *(asyncio.to_thread(part, url, id_, 1 + n) for n, id_ in enumerate(ids))
            )
            answers = await asyncio.gather(*(whole(session, url, id_) for id_ in ids))
        return [(got, *answer) for got, answer in zip(parts, answers, strict=True)]

    url, ids = f"{node.url}/v1/chat/completions", [f"one-of-{i}" for i in range(CLIENTS)]
    before = counts(node)
    for id_, (got, body, joined) in zip(ids, asyncio.run(leave_and_return()), strict=True):
        assert body.startswith(got)
        assert joined == id_
        assert is_same(heard(body), expected)
    assert [after - of for after, of in zip(counts(node), before, strict=True)] == [
        CLIENTS,
        CLIENTS * expected.counts[0],
        CLIENTS,
    ]


# --- the child is killed as well ----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restless")


@pytest.fixture(scope="module")
def restless(tiny: Path, folder: Path) -> Iterator[RunningNode]:
    with running_failing_node("tiny", tiny, folder) as node:
        yield node


def hold_at(step: int) -> Fault:
    """Return what stops the child in a prompt, or at a step, until the child is killed."""
    return Fault(where="prefill", kind=HOLD) if step == PREFILL else Fault(kind=HOLD, at=step)


async def leave_a_held_child(
    session: aiohttp.ClientSession, node: RunningNode, folder: Path, id_: str
) -> None:
    """Begin a stream, leave while its child is held, and kill that child."""
    child = psutil.Process(node.model("tiny")["pid"])
    url = f"{node.url}/v1/chat/completions"
    headers = {"X-Session-Id": id_, "X-Request-Id": id_}
    asking = asyncio.create_task(session.post(url, json=BODY, headers=headers).__aenter__())
    await asyncio.to_thread(eventually, lambda: is_held(folder))
    if not asking.cancel():
        asking.result().close()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await asyncio.to_thread(eventually, lambda: clients_of(node, id_) == 0)
    assert is_live(node, id_)
    child.kill()


@pytest.mark.full
@pytest.mark.parametrize("step", range(PREFILL, STEPS, STRIDE))
def test_lingering_stream_outlives_client_and_child(
    restless: RunningNode, folder: Path, expected: Heard, step: int
) -> None:
    async def leave_and_return() -> tuple[bytes, str]:
        async with aiohttp.ClientSession() as session:
            await leave_a_held_child(session, restless, folder, id_)
            return await whole(session, f"{restless.url}/v1/chat/completions", id_)

    id_ = f"held-{step}"
    set_fault(folder, hold_at(step))
    before = counts(restless)
    body, joined = asyncio.run(leave_and_return())
    assert joined == id_
    assert is_same(heard(body), expected)
    assert [after - of for after, of in zip(counts(restless), before, strict=True)] == [
        1,
        expected.counts[0],
        1,
    ]
