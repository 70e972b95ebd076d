"""What every worker does: the fake one in memory, the same in a process, and the product's child.

The other tests of the supervisor and of the front stand on the fake; here the same assertions hold
it to what the real one does on the same pipe.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest

from mlx_worker.child.pipe import EXIT_FRONT_GONE, EXIT_GARBAGE
from mlx_worker.supervisor.process.connection import ConnectionCallbacks
from mlx_worker.supervisor.process.launch.launcher import CHILD_LAUNCHER, Launched, Launcher
from mlx_worker.wire.kv_blocks import KvBlocks
from mlx_worker.wire.messages import (
    PROTOCOL,
    CancelGeneration,
    Generate,
    Hello,
    Load,
    Loaded,
    LoadProgress,
    Ping,
    Pong,
    PrefillProgress,
    Started,
)
from mlx_worker.wire.output import Done, PromptScores, RowOutput
from mlx_worker.wire.prompt_cache import (
    CacheCleared,
    CacheState,
    ClearCache,
    PromptWarmed,
    TrimCache,
    Warm,
)
from mlx_worker.wire.request import ChatRequest, Sampling
from mlx_worker.wire.tokenizing import Detokenize, DetokenizeResult, Tokenize, TokenizeResult
from tests.rounds import variants
from tests.supervisor_harness import DEADLINE, scripted_process, soon
from tests.worker_in_memory import MemoryLauncher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mlx_worker.supervisor.process.connection import ChildReport, ResponseMessage
    from mlx_worker.supervisor.process.states import Event
    from mlx_worker.wire.base import WireMessage

PATIENCE = 60.0
"""Seconds: the product's child imports all of MLX."""

CONTEXT = 4000
SYSTEM = "be kind and brief to whoever asks"
GARBAGE = b"\x00\x00\x00\x03abc"

Kind = TypeVar("Kind")

WORKERS = ("memory", "process", "mlx")
ALL = pytest.mark.parametrize("worker", WORKERS)
MOST = pytest.mark.parametrize("worker", variants(WORKERS, ["memory", "process"]))
"""With a real model in `tox -e full`."""

LONG = "one two three " * 400
SLOWLY = ("--every", "0.01")
"""Flags of a fake worker that takes 12 s to answer LONG: a test ends the answer before."""


def launcher_of(worker: str, *flags: str) -> Launcher:
    """Return what starts workers of this kind; the product's child has no flags."""
    match worker:
        case "memory":
            return MemoryLauncher(flags)
        case "process":
            return scripted_process(*flags)
        case _:
            return CHILD_LAUNCHER


class Listener:
    """The listener of one id."""

    def __init__(self) -> None:
        self.messages: list[ResponseMessage] = []
        self.lost = ""
        self.last = asyncio.Event()
        self.first = asyncio.Event()

    def on_message(self, message: ResponseMessage) -> None:
        assert not self.last.is_set(), f"{message} after the last word"
        self.messages.append(message)
        if isinstance(message, RowOutput):
            self.first.set()
        elif not isinstance(message, Started | PrefillProgress | PromptScores):
            self.last.set()

    def on_connection_lost(self, why: str) -> None:
        assert not self.last.is_set(), f"lost after the last word: {why}"
        self.lost = why
        self.last.set()

    async def wait_finished(self) -> list[ResponseMessage]:
        """Everything that was heard, once the last word was."""
        async with asyncio.timeout(PATIENCE):
            await self.last.wait()
        return self.messages

    @property
    def tokens(self) -> list[int]:
        return [
            token
            for started in self.messages
            if isinstance(started, RowOutput)
            for token in started.tokens
        ]

    @property
    def text(self) -> str:
        return "".join(
            output.text for output in self.messages if isinstance(output, RowOutput | Done)
        )


@dataclass
class Seat:
    """The supervisor's seat: what a launched worker said of itself."""

    facts: list[ChildReport] = field(default_factory=list)
    ends: list[Event] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    launched: Launched = field(init=False)

    def owner(self) -> ConnectionCallbacks:
        return ConnectionCallbacks(self._on_report, self._on_end, lambda: None, lambda _: None)

    def _on_report(self, fact: ChildReport) -> None:
        self.facts.append(fact)
        self.changed.set()

    def _on_end(self, event: Event, _reason: str) -> None:
        self.ends.append(event)
        self.changed.set()

    async def fact(self, kind: type[Kind], after: int = 0) -> Kind:
        """Wait for a fact of this kind, the first after so many facts."""
        async with asyncio.timeout(PATIENCE):
            while True:
                if found := [fact for fact in self.facts[after:] if isinstance(fact, kind)]:
                    return found[0]
                self.changed.clear()
                await self.changed.wait()

    def open(self, message: WireMessage, id_: int) -> Listener:
        listener = Listener()
        self.launched.connection.open(id_, listener, message)
        return listener

    async def last_response(self, message: WireMessage, id_: int) -> ResponseMessage:
        """Return the last response to this message."""
        *_, last = await self.open(message, id_).wait_finished()
        return last


@asynccontextmanager
async def launched(
    worker: str, folder: Path, *flags: str, report_blocks: bool = False
) -> AsyncIterator[Seat]:
    """A worker that has loaded its model; in the end it is gone."""
    seat = Seat()
    seat.launched = await launcher_of(worker, *flags)(seat.owner())
    process = seat.launched.process
    try:
        hello = await seat.fact(Hello)
        assert (hello.protocol, hello.pid) == (PROTOCOL, process.pid)
        assert hello.versions
        assert seat.facts == [hello], "it says nothing else before it is told to load"
        load = Load("m", str(folder), 4, CONTEXT, 1 << 30, 1 << 30, 0.1)
        load = msgspec.structs.replace(load, report_blocks=report_blocks)
        seat.launched.connection.send(load)
        loaded = await seat.fact(Loaded)
        assert (loaded.context_length, loaded.weight_bytes > 0) == (CONTEXT, True)
        progress = [fact for fact in seat.facts if isinstance(fact, LoadProgress)]
        done = [item.done for item in progress]
        assert done == sorted(done)
        assert progress[-1].done == progress[-1].total
        yield seat
    finally:
        seat.launched.connection.close()
        async with asyncio.timeout(DEADLINE):
            await process.wait()
            await seat.launched.stderr_tail.complete(DEADLINE)


def request(text: str, max_tokens: int | None = None, system: str = "") -> ChatRequest:
    head = [{"role": "system", "content": system}] if system else []
    turns = [*head, {"role": "user", "content": text}]
    return ChatRequest(turns, Sampling(seed=1), max_tokens=max_tokens)


TURNS = [
    {"role": "user", "content": "one two three four"},
    {"role": "assistant", "content": "five six"},
    {"role": "user", "content": "seven"},
]


@pytest.mark.process
@MOST
async def test_a_prompt_parts_from_the_last_one_of_its_session(worker: str, nano: Path) -> None:
    other = TURNS[1] | {"content": "eight"}
    conversations = [
        ("s", TURNS[:1], None),
        ("s", TURNS, "none"),
        ("t", TURNS, None),
        ("s", [TURNS[0], other, TURNS[2]], "turn 2 (assistant)"),
        ("", TURNS, None),
    ]
    async with launched(worker, nano) as seat:
        for id_, (session, turns, place) in enumerate(conversations, 1):
            asked = ChatRequest(turns, Sampling(seed=1), max_tokens=1)
            message = Generate(id_, asked, session=session, request_id=f"r{id_}")
            started, *_ = await seat.open(message, id_).wait_finished()
            assert isinstance(started, Started)
            parting = started.parting
            assert (parting.place if parting else None) == place
            if parting is not None and parting.part != "none":
                assert 0 < parting.shared < parting.last


@pytest.mark.process
@ALL
async def test_an_answer_is_started_read_said_and_ended(worker: str, nano: Path) -> None:
    async with launched(worker, nano) as seat:
        listener = seat.open(Generate(1, request("one two three four", 3)), 1)
        started, *_, done = await listener.wait_finished()
        assert isinstance(started, Started)
        assert started.prompt_tokens > 0
        assert not started.cache_hit
        read = [progress for progress in listener.messages if isinstance(progress, PrefillProgress)]
        assert read
        assert read[-1].done == read[-1].total
        assert isinstance(done, Done)
        assert (
            (done.finish, done.completion_tokens)
            == ("length", len(listener.tokens))
            == ("length", 3)
        )
        kinds = [type(item) for item in listener.messages]
        assert kinds == sorted(kinds, key=[Started, PrefillProgress, RowOutput, Done].index)

        again = seat.open(Generate(2, request("one two three four", 3), listener.tokens[:2]), 2)
        *_, done = await again.wait_finished()
        assert again.tokens == listener.tokens[2:], "a replay goes on with the next token"
        assert listener.text.endswith(again.text)
        assert isinstance(done, Done)
        assert done.completion_tokens == 3

        listeners = [
            seat.open(Generate(id_, request(text, 3)), id_)
            for id_, text in enumerate(["one two three", "four five six"], start=3)
        ]
        for of_two in listeners:
            await of_two.wait_finished()
            assert len(of_two.tokens) == 3, "each id hears its own"


@pytest.mark.process
@MOST
async def test_pings_are_answered_at_once_and_count_what_was_done(worker: str, nano: Path) -> None:
    async with launched(worker, nano) as seat:
        seat.launched.connection.send(Ping(1))
        assert (await seat.fact(Pong)).seq == 1
        before = len(seat.facts)
        listener = seat.open(Generate(1, request("one two three " * 100, 200)), 1)
        await listener.wait_finished()
        seat.launched.connection.send(Ping(2))
        pong = await seat.fact(Pong, before)
        assert (pong.seq, pong.active) == (2, 0)
        assert pong.decode_steps > 0
        assert pong.prefilled_tokens > 0
        assert pong.resident_bytes > 0


@pytest.mark.process
@MOST
async def test_what_is_cancelled_says_so_and_nothing_more(worker: str, nano: Path) -> None:
    async with launched(worker, nano, *SLOWLY) as seat:
        listener = seat.open(Generate(1, request(LONG, 2500)), 1)
        async with asyncio.timeout(PATIENCE):
            await listener.first.wait()
        seat.launched.connection.send(CancelGeneration(1))
        *_, done = await listener.wait_finished()
        assert isinstance(done, Done)
        assert done.finish == "cancelled"
        seat.launched.connection.send(CancelGeneration(1))  # what is over cannot be cancelled
        after = seat.open(Generate(2, request("one two", 2)), 2)
        await after.wait_finished()
        assert len(after.tokens) == 2


@pytest.mark.process
@MOST
async def test_a_system_prompt_is_resident_until_it_is_cleared(worker: str, nano: Path) -> None:
    async with launched(worker, nano) as seat:
        hits = []
        for id_ in (1, 2):
            listener = seat.open(Generate(id_, request("one two", 2, SYSTEM)), id_)
            started, *_ = await listener.wait_finished()
            assert isinstance(started, Started)
            hits.append((started.cache_hit, started.cached_tokens > 0))
        assert hits == [(False, False), (True, True)]
        state = [fact for fact in seat.facts if isinstance(fact, CacheState)][-1]
        assert state.system_prompt_hash == hashlib.sha256(SYSTEM.encode()).hexdigest()
        assert state.entries > 0
        before = len(seat.facts)
        assert await seat.last_response(ClearCache(3), 3) == CacheCleared(3)
        state = await seat.fact(CacheState, before)
        assert (state.tokens, state.entries, state.bytes) == (0, 0, 0)
        before = len(seat.facts)
        warmed = await seat.last_response(Warm(4, SYSTEM), 4)
        assert isinstance(warmed, PromptWarmed)
        assert (await seat.fact(CacheState, before)).tokens == warmed.tokens > 0
        started, *_ = await seat.open(Generate(5, request("one", 1, SYSTEM)), 5).wait_finished()
        assert isinstance(started, Started)
        assert started.cache_hit
        assert await seat.last_response(TrimCache(6, 1 << 30), 6) == CacheCleared(6)


@pytest.mark.process
@MOST
async def test_blocks_are_reported_only_to_a_front_that_wants_them(worker: str, nano: Path) -> None:
    for wanted in (True, False):
        async with launched(worker, nano, report_blocks=wanted) as seat:
            await seat.last_response(Warm(1, "one two three " * 200), 1)
            if wanted:
                blocks = await seat.fact(KvBlocks)
                assert blocks.count == len(blocks.stored) >= 2
                assert [block.parent for block in blocks.stored] == [
                    None,
                    *(block.hash for block in blocks.stored[:-1]),
                ]
            await seat.last_response(ClearCache(2), 2)
            if wanted:
                cleared = await seat.fact(KvBlocks, seat.facts.index(blocks) + 1)
                assert (cleared.cleared, cleared.count, cleared.digest) == (True, 0, 0)
        assert any(isinstance(fact, KvBlocks) for fact in seat.facts) is wanted


@pytest.mark.process
@MOST
async def test_tokens_are_told_and_made_text_again(worker: str, nano: Path) -> None:
    async with launched(worker, nano) as seat:
        told = await seat.last_response(Tokenize(1, request("one two")), 1)
        assert isinstance(told, TokenizeResult)
        tokens = json.loads(told.tokens)
        assert told.count == len(tokens) > 0
        text = await seat.last_response(Detokenize(2, tokens), 2)
        assert isinstance(text, DetokenizeResult)
        assert isinstance(json.loads(text.text), str)


@pytest.mark.process
@MOST
async def test_it_leaves_when_its_front_is_gone(worker: str, nano: Path) -> None:
    async with launched(worker, nano, *SLOWLY) as seat:
        listener = seat.open(Generate(1, request(LONG, 2500)), 1)
        async with asyncio.timeout(PATIENCE):
            await listener.first.wait()
        seat.launched.connection.close()
        assert await soon(seat.launched.process.wait()) == EXIT_FRONT_GONE
        await listener.wait_finished()
        assert listener.lost


@pytest.mark.process
@MOST
async def test_it_leaves_when_its_front_speaks_no_message(worker: str, nano: Path) -> None:
    async with launched(worker, nano) as seat:
        transport = seat.launched.connection._transport
        assert transport is not None
        transport.write(GARBAGE)
        assert await soon(seat.launched.process.wait()) == EXIT_GARBAGE
        assert seat.launched.process.returncode == EXIT_GARBAGE


@pytest.mark.process
@MOST
async def test_killed_it_ends_its_pipe_and_its_open_ids(worker: str, nano: Path) -> None:
    async with launched(worker, nano, *SLOWLY) as seat:
        listener = seat.open(Generate(1, request(LONG, 2500)), 1)
        async with asyncio.timeout(PATIENCE):
            await listener.first.wait()
        seat.launched.process.kill()
        assert await soon(seat.launched.process.wait()) == -9
        await listener.wait_finished()
        assert listener.lost
        assert len(seat.ends) == 1
        seat.launched.process.kill()  # nothing happens
        assert await soon(seat.launched.stderr_tail.complete(DEADLINE)) is not None
