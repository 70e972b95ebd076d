"""A numbered buffer of the last items of a kind, to be read later or followed live.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

T = TypeVar("T")


class RingBuffer(Generic[T]):
    """Keeps the last `size` items. Numbers begin at 1 and are never given twice."""

    def __init__(self, size: int) -> None:
        self._kept: deque[tuple[int, T]] = deque(maxlen=size)
        self._numbers = count(1)
        self._followers: set[asyncio.Event] = set()
        self._closed = asyncio.Event()

    def add(self, item: T) -> None:
        """Add the newest item. Call on the event loop's thread."""
        self._kept.append((next(self._numbers), item))
        self._notify()

    def after(self, number: int) -> list[tuple[int, T]]:
        """Return the items with higher numbers, the oldest first.

        Return all items if no item has that number yet: it is from before this process began.
        """
        if not self._kept or number > self._kept[-1][0]:
            number = 0
        return [(own, item) for own, item in self._kept if own > number]

    async def follow(self, number: int, every: float) -> AsyncGenerator[list[tuple[int, T]]]:
        """Yield the items after `number`, then new items, until the buffer is closed.

        Yield an empty list after `every` seconds without an item. A slow reader misses the items
        that the buffer has dropped by then.
        """
        changed = asyncio.Event()
        with self.notifying(changed):
            while True:
                changed.clear()
                items = self.after(number) if self.newest != number else []
                if items:
                    number = items[-1][0]
                elif self.is_closed:
                    return
                yield items
                if not self.is_closed:
                    await set_within(changed, every)

    @contextlib.contextmanager
    def notifying(self, changed: asyncio.Event) -> Iterator[None]:
        """Have `changed` set at each new item and at the end, while the context is entered."""
        self._followers.add(changed)
        try:
            yield
        finally:
            self._followers.discard(changed)

    def close(self) -> None:
        """End all followers: no more items will be added."""
        self._closed.set()
        self._notify()

    async def closed_within(self, seconds: float) -> bool:
        """Return True as soon as the buffer is closed, False after `seconds`."""
        return await set_within(self._closed, seconds)

    @property
    def is_closed(self) -> bool:
        """True if no more items will be added."""
        return self._closed.is_set()

    @property
    def newest(self) -> int:
        """Return the number of the newest item; 0 before the first item."""
        return self._kept[-1][0] if self._kept else 0

    def _notify(self) -> None:
        for changed in self._followers:
            changed.set()


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Return True as soon as the event is set, False after `seconds`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
