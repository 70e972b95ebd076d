"""When a stream is written to: at once, with its end, when its client has caught up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import web

from mlx_worker.api.generation.stream import OutputStream
from mlx_worker.errors import InferenceError, WorkerError
from mlx_worker.supervisor.requests.generation import Generation
from mlx_worker.wire.output import Done, RowOutput
from tests.supervisor_harness import chat, soon

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from mlx_worker.api.dialects.base import ResponseWriter
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta


class Keeper:
    """An owner of generations that does nothing."""

    def process_lost(self, generation: Generation, why: str) -> None: ...

    def first_token_after_resume(self, generation: Generation, after: float) -> None: ...

    def client_disconnected(self, generation: Generation) -> None: ...

    def abort(self, generation: Generation, error: WorkerError) -> None: ...

    def generation_ended(self, generation: Generation) -> None: ...


class Plain:
    """A dialect that says nothing but the text."""

    def keepalive(self) -> bytes:
        return b":"

    def delta(self, piece: OutputDelta, choice: int) -> bytes:
        return f"{choice}{piece.text}".encode()


class Client:
    """A socket and its writer; `unsent` is what it does not take."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.unsent = 0
        self.caught_up = asyncio.Event()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 8

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.got.append(data)

    async def drain(self) -> None:
        await self.caught_up.wait()


class Told:
    """A stream of some choices."""

    def __init__(self, choices: int = 1) -> None:
        self.client = Client()
        self.choices = [
            Generation(chat("x"), "", Keeper(), keepalive_interval=60) for _ in range(choices)
        ]
        self.stream = OutputStream(
            web.StreamResponse(),
            cast("AbstractStreamWriter", self.client),
            cast("asyncio.WriteTransport", self.client),
            cast("ResponseWriter", Plain()),
            self.choices,
        )
        self.running = asyncio.create_task(self.stream.run())

    def deliver(self, *texts: str, choice: int = 0) -> None:
        for text in texts:
            self.choices[choice].on_message(RowOutput(1, [5], text))

    def end(self, text: str, choice: int = 0) -> None:
        self.choices[choice].on_message(Done(1, "stop", 3, text))


@pytest.fixture
async def told() -> Told:
    stream = Told()
    await asyncio.sleep(0)
    return stream


async def test_what_is_heard_is_written_at_once(told: Told) -> None:
    for text in "abc":
        told.deliver(text)
        assert told.client.got[-1] == f"0{text}".encode()


async def test_what_is_heard_with_the_end_is_sent_with_it(told: Told) -> None:
    told.deliver("a")
    told.end("b")
    await soon(told.running)
    assert (told.client.got, told.stream.drain_unsent()) == ([b"0a"], b"0b")


async def test_what_one_choice_says_last_is_written_while_another_goes_on() -> None:
    told = Told(choices=2)
    await asyncio.sleep(0)
    told.end("a")
    assert told.client.got == [b"0a"]
    told.end("b", choice=1)
    await soon(told.running)
    assert (told.client.got, told.stream.drain_unsent()) == ([b"0a"], b"1b")


async def test_a_client_that_lags_is_written_to_when_it_has_caught_up(told: Told) -> None:
    told.client.unsent = 9
    told.deliver("a")
    told.deliver("b", "c")
    assert told.client.got == [b"0a"]
    told.client.unsent = 0
    told.client.caught_up.set()
    for _ in range(3):
        await asyncio.sleep(0)
    assert told.client.got == [b"0a", b"0bc"]


async def test_a_failure_takes_nothing_away_from_a_client_that_lags(told: Told) -> None:
    told.client.unsent = 9
    told.deliver("a", "b")
    told.choices[0].fail(InferenceError("it broke"))
    told.client.unsent = 0
    told.client.caught_up.set()
    with pytest.raises(InferenceError):
        await soon(told.running)
    assert b"".join([*told.client.got, told.stream.drain_unsent()]) == b"0a0b"
