"""Which kinds of work hold a thread of the child for longer than they may, and what is under way.

Counted by kind, never by words: the front shows the counts as a metric. Work that is under way
counts as progress too, or a long preparation would look like a process that hangs; not for ever,
or one that hangs would look like work. [child]
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUDGET: Final = 1.0
"""Seconds that one piece of work may hold its thread while others wait."""

PIECE: Final = 60.0
"""Seconds for which a piece of work under way is progress: far beyond what the limits on a request
let one take."""


class WorkMonitor:
    """One process's; any thread may count its work here."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._over: Counter[str] = Counter()
        self._done = 0
        self._since: dict[int, float] = {}

    @contextlib.contextmanager
    def by(self, kind: str) -> Iterator[None]:
        """Count this block as a piece of work of that kind."""
        began = self._clock()
        thread = threading.get_ident()
        with self._lock:
            self._since[thread] = began
        try:
            yield
        finally:
            took = self._clock() - began
            with self._lock:
                del self._since[thread]
                # What it counted for while under way stays counted: progress never goes back.
                self._done += 1 + int(min(took, PIECE))
                if took > BUDGET:
                    self._over[kind] += 1

    @property
    def over(self) -> dict[str, int]:
        """Pieces of work that took longer than the budget, by kind."""
        with self._lock:
            return dict(self._over)

    @property
    def progress(self) -> int:
        """A number that rises with each piece of work, and with each second of one under way."""
        now = self._clock()
        with self._lock:
            under_way = sum(int(min(now - began, PIECE)) for began in self._since.values())
            return self._done + under_way
