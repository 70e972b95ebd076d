"""The last things of a kind, for whoever asks later or reads along."""

import asyncio

from mlx_worker.supervisor.ring_buffer import RingBuffer
from tests.supervisor_harness import soon

LONG = 3600.0


def test_only_the_last_are_kept_and_numbers_go_on() -> None:
    ring: RingBuffer[str] = RingBuffer(2)
    for word in ("a", "b", "c"):
        ring.add(word)
    assert ring.after(0) == [(2, "b"), (3, "c")]
    assert ring.after(2) == [(3, "c")]
    assert ring.after(3) == []


def test_a_number_of_a_former_process_means_everything() -> None:
    ring: RingBuffer[str] = RingBuffer(2)
    assert ring.after(70) == []
    ring.add("a")
    assert ring.after(70) == [(1, "a")]


async def test_who_follows_hears_what_was_and_then_what_comes() -> None:
    ring: RingBuffer[str] = RingBuffer(10)
    ring.add("a")
    ring.add("b")
    news = ring.follow(1, LONG)
    assert await soon(anext(news)) == [(2, "b")]
    waiting = asyncio.ensure_future(anext(news))
    await asyncio.sleep(0)
    assert not waiting.done()
    ring.add("c")
    assert await soon(waiting) == [(3, "c")]
    await news.aclose()


async def test_who_follows_hears_nothing_now_and_then_where_nothing_comes() -> None:
    ring: RingBuffer[str] = RingBuffer(10)
    news = ring.follow(0, 0.001)
    assert await soon(anext(news)) == []
    assert await soon(anext(news)) == []
    await news.aclose()


async def test_a_ring_that_is_closed_lets_go_of_whoever_follows_once_all_is_told() -> None:
    ring: RingBuffer[str] = RingBuffer(10)
    news = ring.follow(0, LONG)
    assert await soon(anext(news)) == []
    ring.add("a")
    ring.close()
    assert await soon(anext(news)) == [(1, "a")]
    assert [new async for new in news] == []
