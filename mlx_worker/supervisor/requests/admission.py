"""Decides which requests are handed to a child, and which have to wait.

A child has as many requests as it has decode rows; the next `max_queue` wait here, and further ones
are refused. The queue is fair: a client with many requests delays the others by one of them, not by
all. A request that is cancelled while it waits gives up its place.

[front]
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import QueueFull
from mlx_worker.supervisor.requests.fair_queue import Place, TicketQueue

if TYPE_CHECKING:
    from mlx_worker.supervisor.requests.fair_queue import Ticket

MAX_RETRY_AFTER: Final = 120.0
"""The longest `Retry-After` of a refused client, in seconds."""

RECENT: Final = 32
"""Requests whose duration is averaged."""


def estimated_wait(waiting: int, slots: int, durations: deque[float]) -> float:
    """Return the seconds until all waiting requests have a slot, by recent durations.

    At least a second, and a second if no duration is known.
    """
    if not durations:
        return 1.0
    mean = sum(durations) / len(durations)
    return min(max(1.0, (waiting + 1) * mean / slots), MAX_RETRY_AFTER)


class Admission:
    """The slots of one model, and the queue for them."""

    def __init__(self, model: str, max_concurrency: int, max_queue: int) -> None:
        self._model = model
        self._slots = max_concurrency
        self._slots_taken = 0
        self._peak = 0
        self._max_queue = max_queue
        self._queue = TicketQueue()
        self._durations: deque[float] = deque(maxlen=RECENT)

    @property
    def queued(self) -> int:
        """Return the number of requests that wait for a slot."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Return the number of requests that have a slot."""
        return self._slots_taken

    @property
    def peak(self) -> int:
        """Return the largest number of requests that had a slot since `reset_peak`."""
        return self._peak

    def reset_peak(self) -> None:
        """Begin a new period for `peak` with the requests that have a slot now."""
        self._peak = self._slots_taken

    def resize(self, max_concurrency: int, max_queue: int) -> None:
        """Change the number of slots; running and waiting requests keep what they have."""
        self._slots = max_concurrency
        self._max_queue = max_queue
        while self._queue and self._slots_taken < self._slots:
            self._add_slot_taken()
            self._pass_slot()

    async def take_slot(self, session: str = "", key: str = "") -> None:
        """Take a slot, after a wait in the queue if none is free. Raises QueueFull.

        `session` is the client's own name for its conversation, `key` the name of its API key.
        """
        if self._slots_taken < self._slots and not self._queue:
            self._add_slot_taken()
            return
        # A request without a session's name is a session of its own.
        place = Place(key, session or object())
        if self.queued >= self._max_queue and not self._displace_for(place):
            raise self._full()
        ticket: Ticket = asyncio.get_running_loop().create_future()
        self._queue.add(place, ticket)
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.cancelled():
                self._queue.remove(place, ticket)
            elif ticket.exception() is None:
                self.release_slot()  # the ticket has been served
            raise

    def release_slot(self, took: float | None = None) -> None:
        """Pass a slot to the next ticket, or free the slot, which was held for `took` seconds."""
        if took is not None:
            self._durations.append(took)
        if self._slots_taken > self._slots or not self._pass_slot():
            self._slots_taken -= 1

    def _add_slot_taken(self) -> None:
        self._slots_taken += 1
        self._peak = max(self._peak, self._slots_taken)

    def _pass_slot(self) -> bool:
        """Serve the next ticket with a slot that is taken; return False if no request waits."""
        while self._queue:
            ticket = self._queue.pop()
            if not ticket.done():
                ticket.set_result(None)
                return True
        return False

    def _displace_for(self, place: Place) -> bool:
        """Refuse the newest ticket of a larger key or session; return False if there is none."""
        displaced = self._queue.displaced_by(place)
        if displaced is None:
            return False
        other, ticket = displaced
        self._queue.remove(other, ticket)
        if not ticket.done():
            ticket.set_exception(self._full())
        return True

    def _full(self) -> QueueFull:
        waiting = self.queued
        return QueueFull(
            f"model {self._model!r} runs {self._slots_taken} requests and {waiting} wait; "
            f"max_queue is {self._max_queue}",
            retry_after=estimated_wait(waiting, self._slots, self._durations),
        )
