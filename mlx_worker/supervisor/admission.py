"""Who may hand work to a child, and who has to wait.

As many requests as the child has decode rows are in its hands; the next `max_queue` wait here, in
the order they came; the rest is refused. A request that is cancelled while it waits gives up its
place. [front]
"""

from __future__ import annotations

import asyncio
from collections import deque

from mlx_worker.errors import QueueFull


class Admission:
    """The places of one model."""

    def __init__(self, model: str, max_concurrency: int, max_queue: int) -> None:
        self._model = model
        self._places = max_concurrency
        self._free = max_concurrency
        self._max_queue = max_queue
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Places taken."""
        return self._places - self._free

    async def enter(self) -> None:
        """Take a place, waiting in line for one. Raises QueueFull."""
        if self._free and not self._queue:
            self._free -= 1
            return
        if len(self._queue) >= self._max_queue:
            raise QueueFull(
                f"model {self._model!r} runs {self._places} requests and {len(self._queue)} wait; "
                f"max_queue is {self._max_queue}",
                retry_after=1,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()  # its turn had come
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def leave(self) -> None:
        """Give the place to whoever waits longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
