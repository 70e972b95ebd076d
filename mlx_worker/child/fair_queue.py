"""Work for one thread, in turns by request.

A body with a hundred choices has one turn in a round, as any other request. [child]
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Queue items by a key; each key with items has one turn before any has a second."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, deque[T]] = OrderedDict()
        self._changed = threading.Condition()

    def put(self, key: str, item: T) -> None:
        """Add an item behind others of its key; a new key has the last turn."""
        with self._changed:
            self._items.setdefault(key, deque()).append(item)
            self._changed.notify()

    def get(self) -> tuple[str, T]:
        """Wait for an item, and take the first of the key whose turn is next."""
        with self._changed:
            while not self._items:
                self._changed.wait()
            key, items = self._items.popitem(last=False)
            item = items.popleft()
            if items:
                self._items[key] = items
            return key, item

    def has(self, key: str) -> bool:
        """Return True if items of this key wait."""
        with self._changed:
            return key in self._items
