"""What a client gets of a recording: at once, when it has caught up, with the end, and no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from mlx_worker.api.generation.lingering.follower import StreamFollower, all_of
from mlx_worker.api.generation.lingering.recording import Recording
from mlx_worker.api.generation.lingering.response_endpoints import SkippedEvents
from tests.api.generation.test_stream import Client
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

PLENTY = 1 << 20


class Reading:
    """One client of a recording."""

    def __init__(self, recording: Recording) -> None:
        self.client = Client()
        self.follower = StreamFollower(recording, all_of)
        recording.attach(self.follower)
        self.running = asyncio.create_task(
            self.follower.run(
                cast("AbstractStreamWriter", self.client),
                cast("asyncio.WriteTransport", self.client),
                is_chunked=False,
            )
        )

    async def all(self) -> bytes:
        """Wait for the end, and return what the client has got."""
        last = await soon(self.running)
        return b"".join([*self.client.got, last])

    def catch_up(self) -> None:
        self.client.unsent = 0
        self.client.caught_up.set()


def begun(max_bytes: int = PLENTY) -> tuple[Recording, list[str]]:
    """A recording whose stream has begun, and what it reports."""
    reported: list[str] = []
    recording = Recording(max_bytes, lambda: reported.append("overflow"))
    recording.begin(200, {})
    return recording, reported


async def test_follower_writes_the_recorded_object_itself() -> None:
    recording, _ = begun()
    reading = Reading(recording)
    await asyncio.sleep(0)
    for data in (b"one", b"two"):
        recording.write(data)
        assert reading.client.got[-1] is data
    recording.finish(b"end")
    assert await soon(reading.running) == b"end"
    assert reading.client.got == [b"one", b"two"]


async def test_follower_that_comes_late_writes_what_was_said_at_once() -> None:
    recording, _ = begun()
    for data in (b"one", b"two"):
        recording.write(data)
    reading = Reading(recording)
    await asyncio.sleep(0)
    assert reading.client.got == [b"onetwo"]
    recording.finish()
    assert await soon(reading.running) == b""


async def test_follower_of_a_client_that_lags_holds_up_no_other() -> None:
    recording, _ = begun()
    slow, fast = Reading(recording), Reading(recording)
    await asyncio.sleep(0)
    slow.client.unsent = 9
    for data in (b"a", b"b", b"c"):
        recording.write(data)
    assert (slow.client.got, fast.client.got) == ([b"a"], [b"a", b"b", b"c"])
    slow.catch_up()
    recording.finish(b"d")
    assert await slow.all() == b"abcd"
    assert await soon(fast.running) == b"d"


async def test_recording_beyond_its_bytes_keeps_what_a_client_has_not_got() -> None:
    recording, reported = begun(max_bytes=4)
    slow, fast = Reading(recording), Reading(recording)
    await asyncio.sleep(0)
    slow.client.unsent = 9
    for data in (b"aa", b"bb", b"cc", b"dd"):
        recording.write(data)
    assert (recording.is_complete, reported) == (False, ["overflow"])
    slow.catch_up()
    recording.finish(b"end")
    assert await slow.all() == b"aabbccddend"
    assert await fast.all() == b"aabbccddend"


@pytest.mark.parametrize("number", range(5))
def test_skipped_events_are_the_first_ones(number: int) -> None:
    events = [b"event: %d\ndata: {}\n\n" % n for n in range(4)]
    stream = [events[0] + events[1], b": a comment\n\n", events[2], events[3]]
    select = SkippedEvents(number)
    rest = b"".join(select(data) for data in stream)
    assert rest.replace(b": a comment\n\n", b"") == b"".join(events[number:])
