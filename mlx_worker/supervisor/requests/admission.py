"""Who may hand work to a child, and who has to wait.

As many requests as the child has decode rows are in its hands; the next `max_queue` wait here. Each
turn goes to the next API key in the round, and of that key to the next session, and in a session to
whoever came first, so that one with many requests delays the others by one of them, not by all. The
rest is refused. A request that is cancelled while it waits gives up its place. [front]
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import QueueFull
from mlx_worker.supervisor.requests.fair_queue import Line, Place

if TYPE_CHECKING:
    from mlx_worker.supervisor.requests.fair_queue import Turn

LONGEST_WAIT: Final = 120.0
"""Seconds that nobody is told to stay away for more."""

RECENT: Final = 32
"""Requests whose duration is looked at."""


def comes_free_in(waiting: int, places: int, durations: deque[float]) -> float:
    """Seconds until all who wait will have had their turn, by how long requests took of late.

    At least a second, and that where nothing is known.
    """
    if not durations:
        return 1.0
    mean = sum(durations) / len(durations)
    return min(max(1.0, (waiting + 1) * mean / places), LONGEST_WAIT)


class Admission:
    """The places of one model."""

    def __init__(self, model: str, max_concurrency: int, max_queue: int) -> None:
        self._model = model
        self._places = max_concurrency
        self._taken = 0
        self._max_queue = max_queue
        self._line = Line()
        self._durations: deque[float] = deque(maxlen=RECENT)

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        return len(self._line)

    @property
    def running(self) -> int:
        """Places taken."""
        return self._taken

    def resize(self, max_concurrency: int, max_queue: int) -> None:
        """Have so many places from now on; who has one keeps it, who waits goes on waiting."""
        self._places = max_concurrency
        self._max_queue = max_queue
        while self._line and self._taken < self._places:
            self._taken += 1
            self._call_next()

    async def enter(self, session: str = "", key: str = "") -> None:
        """Take a place, waiting in line for one. Raises QueueFull.

        `session` is the caller's own name for its conversation, `key` the name of its API key.
        """
        if self._taken < self._places and not self._line:
            self._taken += 1
            return
        # A request without a session's name is a session of its own.
        place = Place(key, session or object())
        if self.queued >= self._max_queue and not self._makes_way_for(place):
            raise self._full()
        turn: Turn = asyncio.get_running_loop().create_future()
        self._line.add(place, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._line.drop(place, turn)
            elif turn.exception() is None:
                self.leave()  # its turn had come
            raise

    def leave(self, took: float | None = None) -> None:
        """Give the place back, to whoever's turn it is; it was held for `took` seconds."""
        if took is not None:
            self._durations.append(took)
        if self._taken > self._places or not self._call_next():
            self._taken -= 1

    def _call_next(self) -> bool:
        """Give a place that is taken already to the next in the round. False: nobody waits."""
        while self._line:
            turn = self._line.take()
            if not turn.done():
                turn.set_result(None)
                return True
        return False

    def _makes_way_for(self, place: Place) -> bool:
        """In a full line, the last of the key or session with most in it yields to another's."""
        yielding = self._line.yields_to(place)
        if yielding is None:
            return False
        longest, turn = yielding
        self._line.drop(longest, turn)
        if not turn.done():
            turn.set_exception(self._full())
        return True

    def _full(self) -> QueueFull:
        waiting = self.queued
        return QueueFull(
            f"model {self._model!r} runs {self._taken} requests and {waiting} wait; "
            f"max_queue is {self._max_queue}",
            retry_after=comes_free_in(waiting, self._places, self._durations),
        )
