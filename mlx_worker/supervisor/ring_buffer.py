"""The last things of a kind, numbered, for whoever asks later or reads along. [front]"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

T = TypeVar("T")


class Ring(Generic[T]):
    """Keeps the last `size`. Numbers begin at 1 and are never given twice."""

    def __init__(self, size: int) -> None:
        self._kept: deque[tuple[int, T]] = deque(maxlen=size)
        self._numbers = count(1)
        self._readers: set[asyncio.Event] = set()
        self._closed = False

    def add(self, item: T) -> None:
        """The newest one. On the event loop's thread."""
        self._kept.append((next(self._numbers), item))
        self._wake()

    def after(self, number: int) -> list[tuple[int, T]]:
        """Those with higher numbers, the oldest first.

        All of them where no number is as high yet: it is from before this process began.
        """
        if not self._kept or number > self._kept[-1][0]:
            number = 0
        return [it for it in self._kept if it[0] > number]

    async def follow(self, number: int, every: float) -> AsyncGenerator[list[tuple[int, T]]]:
        """Those after `number`, then whatever comes, until the ring is closed.

        Nothing for `every` seconds is an empty list. Who reads slowly misses what the ring has
        lost by then.
        """
        news = asyncio.Event()
        self._readers.add(news)
        try:
            while True:
                news.clear()
                items = self.after(number) if self._newest != number else []
                if items:
                    number = items[-1][0]
                elif self._closed:
                    return
                yield items
                if not self._closed:
                    await _within(news, every)
        finally:
            self._readers.discard(news)

    def close(self) -> None:
        """Let go of whoever follows: nothing more will come."""
        self._closed = True
        self._wake()

    @property
    def _newest(self) -> int:
        return self._kept[-1][0] if self._kept else 0

    def _wake(self) -> None:
        for news in self._readers:
            news.set()


async def _within(news: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        pass
