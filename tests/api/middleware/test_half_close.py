"""What is written, and when, to a client that has closed its side of the connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import HttpVersion10, HttpVersion11, web

from mlx_worker.api.middleware.half_close import (
    COMMENT,
    CONTINUE,
    FIRST_PAUSE,
    HTTP_1_0_TIMEOUT,
    MAX_PAUSE,
    Prober,
    within_stream,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


@dataclass
class Timer:
    at: float
    act: Callable[[], None] | None

    def cancel(self) -> None:
        self.act = None


class Loop:
    """A loop's clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[Timer] = []

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> Timer:
        self._timers.append(Timer(self.now + delay, lambda: callback(*args)))
        return self._timers[-1]

    def run_until(self, time: float) -> None:
        while due := [timer for timer in self._timers if timer.act and timer.at <= time]:
            timer = min(due, key=lambda candidate: candidate.at)
            self._timers.remove(timer)
            self.now = timer.at
            assert timer.act is not None
            timer.act()
        self.now = time


@dataclass
class Transport:
    """A connection's write side, with the times of what was written."""

    loop: Loop
    wrote: list[tuple[float, bytes]] = field(default_factory=list)
    unsent: int = 0
    is_aborted: bool = False

    def write(self, data: bytes) -> None:
        self.wrote.append((round(self.loop.now, 6), data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


@dataclass
class Writer:
    output_size: int = 0


class Request(dict[Any, Any]):
    """A request that is answered now."""

    def __init__(self, version: Any = HttpVersion11) -> None:
        super().__init__()
        self.version = version
        self.writer = Writer()


def probing(request: Request | None) -> tuple[Loop, Transport, Prober]:
    loop = Loop()
    transport = Transport(loop)
    prober = Prober(
        cast("asyncio.AbstractEventLoop", loop),
        cast("asyncio.Transport", transport),
        lambda: cast("web.BaseRequest | None", request),
    )
    return loop, transport, prober


def test_prober_writes_after_pauses_that_double_and_have_an_end() -> None:
    loop, transport, _ = probing(Request())
    loop.run_until(60)
    times, texts = zip(*transport.wrote, strict=True)
    assert {*texts} == {CONTINUE}
    assert times[:5] == tuple(FIRST_PAUSE * factor for factor in (1, 2, 4, 8, 16))
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert max(pauses) == pytest.approx(MAX_PAUSE)


def test_prober_writes_nothing_amid_an_answer_or_between_two() -> None:
    request = Request()
    request.writer.output_size = 1
    for asked in (request, None):
        loop, transport, _ = probing(asked)
        loop.run_until(60)
        assert transport.wrote == []
        assert not transport.is_aborted


def test_prober_writes_nothing_while_the_client_has_not_taken_the_rest() -> None:
    loop, transport, _ = probing(Request())
    transport.unsent = 1
    loop.run_until(60)
    assert transport.wrote == []


@pytest.mark.parametrize("chunked", [False, True])
def test_prober_writes_comments_within_a_stream_only(chunked: bool) -> None:
    request, response = Request(), web.StreamResponse()
    request.writer.output_size = 1
    if chunked:
        response.headers["Transfer-Encoding"] = "chunked"
    loop, transport, _ = probing(request)
    with within_stream(cast("web.Request", request), response):
        loop.run_until(FIRST_PAUSE)
    loop.run_until(60)
    assert [text for _, text in transport.wrote] == [b"3\r\n:\n\n\r\n" if chunked else COMMENT]


def test_prober_drops_what_http_1_0_would_wait_for() -> None:
    loop, transport, _ = probing(Request(HttpVersion10))
    loop.run_until(HTTP_1_0_TIMEOUT * 0.7)
    assert not transport.is_aborted
    loop.run_until(HTTP_1_0_TIMEOUT * 2)
    assert transport.is_aborted
    assert transport.wrote == []


def test_prober_lets_an_answer_to_http_1_0_come_to_its_end() -> None:
    request = Request(HttpVersion10)
    request.writer.output_size = 1
    loop, transport, _ = probing(request)
    loop.run_until(60)
    assert not transport.is_aborted


def test_prober_cancelled_writes_no_more() -> None:
    loop, transport, prober = probing(Request())
    prober.cancel()
    loop.run_until(60)
    assert transport.wrote == []
