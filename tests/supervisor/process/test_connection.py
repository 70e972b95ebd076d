"""The front's end of the pipe, with a peer that the test writes byte by byte."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop

from mlx_worker.errors import CHILD_CODES, ChildLost
from mlx_worker.supervisor.process.connection import (
    ChildConnection,
    ChildReport,
    ConnectionCallbacks,
    ResponseMessage,
    connect,
)
from mlx_worker.supervisor.process.states import Event
from mlx_worker.wire.base import WireMessage
from mlx_worker.wire.framing import MAX_FRAME, encode, frames_to_child
from mlx_worker.wire.messages import (
    PROTOCOL,
    Hello,
    Ping,
    Pong,
    PrefillProgress,
    RequestFailed,
    Started,
    ToChild,
)
from mlx_worker.wire.output import Done, RowOutput, StepOutput
from mlx_worker.wire.prompt_cache import CacheCleared, PromptWarmed, Warm
from tests.supervisor_harness import soon

HELLO = Hello(PROTOCOL, 1, {})
PONG = Pong(1, 0, 0, 0, 0, 0)
STARTED = Started(1, 4, 0, cache_hit=False)
GARBAGE = (2).to_bytes(4, "big") + b"\xc1\xc1"


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[ResponseMessage] = asyncio.Queue()
        self.lost: asyncio.Queue[str] = asyncio.Queue()

    def on_message(self, message: ResponseMessage) -> None:
        self.heard.put_nowait(message)

    def on_connection_lost(self, why: str) -> None:
        self.lost.put_nowait(why)

    async def next(self) -> ResponseMessage:
        return await soon(self.heard.get())

    async def loss(self) -> str:
        return await soon(self.lost.get())


class Peer:
    """A connection, and the far end of its pipe."""

    def __init__(self) -> None:
        self.facts: asyncio.Queue[ChildReport] = asyncio.Queue()
        self.ends: asyncio.Queue[tuple[Event, str]] = asyncio.Queue()
        self.quiet = 0
        self.steps: list[list[RowOutput]] = []
        self.connection = ChildConnection(
            ConnectionCallbacks(self.facts.put_nowait, self._ended, self._hushed, self.steps.append)
        )
        self._frames = frames_to_child()

    def _ended(self, event: Event, reason: str) -> None:
        self.ends.put_nowait((event, reason))

    def _hushed(self) -> None:
        self.quiet += 1

    async def join(self) -> None:
        self.far = await connect(self.connection)
        self.far.setblocking(False)

    def send(self, *messages: WireMessage) -> None:
        self.send_bytes(b"".join(encode(message) for message in messages))

    def send_bytes(self, data: bytes) -> None:
        self.far.sendall(data)

    async def receive(self) -> list[ToChild]:
        """Return what one read brings; [] at EOF."""
        data = await soon(asyncio.get_running_loop().sock_recv(self.far, 1 << 16))
        return list(self._frames.feed(data))

    async def fact(self) -> ChildReport:
        return await soon(self.facts.get())

    async def end(self) -> tuple[Event, str]:
        return await soon(self.ends.get())


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    await peer.join()
    yield peer
    peer.connection.close()
    peer.far.close()


async def tick() -> None:
    """Wait until the loop's clock, which may be as coarse as a millisecond, has moved."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    while loop.time() == before:  # noqa: ASYNC110  (a clock has no event)
        await asyncio.sleep(0)


def opened(peer: Peer, id_: int = 1) -> Ear:
    ear = Ear()
    peer.connection.open(id_, ear, Warm(id_, "a prompt"))
    return ear


# --- the way out ----------------------------------------------------------------------------


async def test_what_is_opened_or_sent_arrives_in_order(peer: Peer) -> None:
    peer.connection.open(7, Ear(), Warm(7, "a prompt"))
    peer.connection.send(Ping(1))
    heard: list[ToChild] = []
    while len(heard) < 2:
        heard += await peer.receive()
    assert heard == [Warm(7, "a prompt"), Ping(1)]


async def test_the_far_end_is_the_only_one_a_child_would_inherit(peer: Peer) -> None:
    assert peer.far.family == socket.AF_UNIX
    assert not peer.far.get_inheritable()


async def test_a_message_that_fits_no_frame_is_refused_and_opens_nothing(peer: Peer) -> None:
    with pytest.raises(ValueError, match="over the limit"):
        peer.connection.open(1, Ear(), Warm(1, "x" * (MAX_FRAME + 1)))
    assert peer.connection.open_ids == 0
    peer.connection.send(Ping(1))
    assert await peer.receive() == [Ping(1)]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_was_said_before_the_end_is_heard_though_a_write_fails(new_loop: Any) -> None:
    row = RowOutput(1, [5], "a")

    async def send_write_and_receive() -> list[ResponseMessage]:
        peer = Peer()
        await peer.join()
        ear = opened(peer)
        await peer.receive()
        peer.send(STARTED, StepOutput([row]))
        peer.far.close()
        peer.connection.send(Ping(1))  # before the loop reads
        heard = [await ear.next() for _ in range(2)]
        assert "the model's process ended" in await ear.loss()
        assert (await peer.end())[0] is Event.LINK_LOST
        return heard

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(send_write_and_receive()) == [STARTED, row]


# --- the way in -----------------------------------------------------------------------------


async def test_facts_go_to_the_child_and_answers_to_whoever_opened_their_id(peer: Peer) -> None:
    first, second = opened(peer, 1), opened(peer, 2)
    row, other = RowOutput(1, [5], "a"), RowOutput(2, [6], "b")
    peer.send(HELLO, STARTED, StepOutput([row, other]), Done(1, "stop", 1, ""))
    assert await peer.fact() == HELLO
    assert [await first.next() for _ in range(3)] == [STARTED, row, Done(1, "stop", 1, "")]
    assert await second.next() == other


async def test_messages_may_arrive_one_byte_at_a_time(peer: Peer) -> None:
    ear = opened(peer)
    for byte in encode(STARTED) + encode(PromptWarmed(1, 9)):
        peer.send_bytes(bytes([byte]))
        await asyncio.sleep(0)
    assert [await ear.next(), await ear.next()] == [STARTED, PromptWarmed(1, 9)]


async def test_each_last_word_closes_its_id_and_the_last_of_them_is_announced(peer: Peer) -> None:
    ears = [opened(peer, id_) for id_ in (1, 2, 3, 4)]
    last_words = (
        Done(1, "stop", 0, ""),
        PromptWarmed(2, 1),
        CacheCleared(3),
        RequestFailed(4, "cache_error", "y"),
    )
    for left, (ear, word) in zip((3, 2, 1, 0), zip(ears, last_words, strict=True), strict=True):
        peer.send(word)
        assert await ear.next() == word
        assert peer.connection.open_ids == left
        assert peer.quiet == (left == 0)


# --- ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(GARBAGE, id="no message"),
        pytest.param(b"\xff\xff\xff\xff", id="too long a frame"),
        pytest.param(b"\x00\x00\x00\x00", id="an empty frame"),
        pytest.param(encode(Ping(1)), id="a message of the other direction"),
        pytest.param(encode(Done(99, "stop", 0, "")), id="an id that nobody opened"),
        pytest.param(encode(RequestFailed(1, ChildLost.code, "?")), id="its own loss"),
        pytest.param(encode(RequestFailed(1, "from_the_future", "?")), id="an unknown error"),
    ],
)
async def test_nonsense_ends_the_pipe_after_what_was_said_before_it(
    peer: Peer, nonsense: bytes
) -> None:
    ear = opened(peer)
    peer.send_bytes(encode(STARTED) + nonsense + encode(PromptWarmed(1, 9)))
    event, _ = await peer.end()
    assert event is Event.GARBAGE
    assert await ear.next() == STARTED
    assert "the model's process ended" in await ear.loss()
    assert peer.connection.open_ids == 0
    assert ear.heard.empty()


@pytest.mark.parametrize("code", sorted(CHILD_CODES))
async def test_an_error_with_a_code_of_the_child_ends_its_id_only(peer: Peer, code: str) -> None:
    ear = opened(peer)
    opened(peer, 2)
    peer.send(RequestFailed(1, code, "it went wrong"))
    assert await ear.next() == RequestFailed(1, code, "it went wrong")
    assert peer.connection.open_ids == 1
    assert peer.ends.empty()


async def test_a_message_after_its_last_word_is_nonsense(peer: Peer) -> None:
    ear = opened(peer)
    peer.send(PromptWarmed(1, 9), PromptWarmed(1, 9))
    assert await ear.next() == PromptWarmed(1, 9)
    assert (await peer.end())[0] is Event.GARBAGE
    assert ear.heard.empty()


async def test_eof_gives_every_open_id_its_last_word_and_is_told_once(peer: Peer) -> None:
    ears = [opened(peer, id_) for id_ in (1, 2)]
    peer.send_bytes(encode(STARTED)[:5])
    peer.far.close()
    assert (await peer.end())[0] is Event.LINK_LOST
    for ear in ears:
        assert "the model's process ended" in await ear.loss()
    peer.connection.close()
    await asyncio.sleep(0)
    assert peer.ends.empty()
    assert all(ear.heard.empty() and ear.lost.empty() for ear in ears)


async def test_closed_by_the_node_it_tells_the_open_ids_but_not_the_node(peer: Peer) -> None:
    ear = opened(peer)
    peer.connection.close()
    assert "closed by the node" in await ear.loss()
    while await peer.receive():  # the peer reads EOF
        pass
    assert peer.ends.empty()


async def test_a_pipe_that_ended_takes_no_work_and_swallows_the_rest(peer: Peer) -> None:
    peer.connection.close()
    with pytest.raises(ChildLost):
        opened(peer)
    peer.connection.send(Ping(1))
    assert peer.connection.open_ids == 0


# --- progress -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sign",
    [STARTED, PrefillProgress(1, 1, 4), StepOutput([RowOutput(1, [5], "a")]), PromptWarmed(1, 9)],
    ids=lambda sign: type(sign).__name__,
)
async def test_what_was_done_for_an_id_is_progress(peer: Peer, sign: WireMessage) -> None:
    ear = opened(peer)
    before = peer.connection.last_progress
    await tick()
    peer.send(sign)
    await ear.next()
    assert peer.connection.last_progress > before


async def test_a_pong_is_no_progress(peer: Peer) -> None:
    opened(peer)
    before = peer.connection.last_progress
    await tick()
    peer.send(PONG)
    assert await peer.fact() == PONG
    assert peer.connection.last_progress == before


async def test_the_first_work_after_idling_starts_the_clock_the_second_does_not(peer: Peer) -> None:
    idle = peer.connection.last_progress
    await tick()
    opened(peer, 1)
    first = peer.connection.last_progress
    assert first > idle
    await tick()
    opened(peer, 2)
    assert peer.connection.last_progress == first
