"""Counts of work that occupied a thread of the child for too long, and progress of current work.

Work is counted by kind, without any text of a request: the front shows the counts as a metric.
Current work counts as progress too, or a long preparation would look like a process that hangs; but
only for a while, or a hanging thread would look like work. [child]
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET: Final = 1.0
"""Seconds for which one piece of work may occupy a thread while others wait."""

PIECE: Final = 60.0
"""Seconds for which current work counts as progress: far more than the limits on requests allow
for a piece of work."""


class WorkMonitor:
    """Measure the work of one process, on any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._over: Counter[str] = Counter()
        self._done = 0
        self._since: dict[int, float] = {}

    def measure(self, kind: str) -> WorkMeasurement:
        """Measure a block as a piece of work of this kind."""
        return WorkMeasurement(self, kind)

    def begin(self) -> float:
        """Begin a piece of work of this thread; return the time."""
        began = self._clock()
        with self._lock:
            self._since[threading.get_ident()] = began
        return began

    def end(self, kind: str, began: float) -> None:
        """End the piece of work of this thread."""
        took = self._clock() - began
        with self._lock:
            del self._since[threading.get_ident()]
            # Progress never goes back: what counted during the work stays counted.
            self._done += 1 + int(min(took, PIECE))
            if took > BUDGET:
                self._over[kind] += 1

    @property
    def slow_counts(self) -> dict[str, int]:
        """Return how many pieces of work took longer than the budget, by kind."""
        with self._lock:
            return dict(self._over)

    @property
    def progress(self) -> int:
        """Return a number that rises with each piece of work, and each second of current work."""
        now = self._clock()
        with self._lock:
            under_way = sum(int(min(now - began, PIECE)) for began in self._since.values())
            return self._done + under_way


class WorkMeasurement:
    """Measure a block; no generator, because each step of the engine is such a block."""

    __slots__ = ("_began", "_kind", "_monitor")

    def __init__(self, monitor: WorkMonitor, kind: str) -> None:
        self._monitor = monitor
        self._kind = kind
        self._began = 0.0

    def __enter__(self) -> None:
        """Begin the work."""
        self._began = self._monitor.begin()

    def __exit__(self, *_error: object) -> None:
        """End the work."""
        self._monitor.end(self._kind, self._began)
