"""The generations of one model that wait for its child, each with the end of its wait.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.supervisor.process.pause import PauseDetector, Timer
    from mlx_worker.supervisor.requests.generation import Generation


class WaitingGenerations:
    """Generations in the order of their wait; a wait ends only while no child serves.

    `on_expired` is called at the end of a wait.
    """

    def __init__(self, pause: PauseDetector, on_expired: Callable[[Generation], None]) -> None:
        self._pause = pause
        self._on_expired = on_expired
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Generation, Timer | None] = {}

    def __iter__(self) -> Iterator[Generation]:
        """Iterate over a copy: a generation that is failed meanwhile leaves."""
        return iter(list(self._timers))

    def __contains__(self, generation: Generation) -> bool:
        """Return True if a generation waits."""
        return generation in self._timers

    def __len__(self) -> int:
        """Return how many generations wait."""
        return len(self._timers)

    def add(self, generation: Generation, until: float | None) -> None:
        """Have a generation wait, until then on the loop's clock; None: without an end."""
        self._timers[generation] = None
        self.set_end(generation, until)

    def remove(self, generation: Generation) -> None:
        """End the wait of a generation; do nothing if it does not wait."""
        if generation in self._timers:
            self.set_end(generation, None)
            del self._timers[generation]

    def set_end(self, generation: Generation, until: float | None) -> None:
        """Have a generation wait until then, on the loop's clock; None: without an end."""
        if (timer := self._timers[generation]) is not None:
            timer.cancel()
        self._timers[generation] = (
            None
            if until is None
            else self._pause.timer(until - self._loop.time(), self._on_expired, generation)
        )

    def end_of(self, generation: Generation) -> float | None:
        """Return when the wait of a generation ends; None if it has no end, or has ended."""
        timer = self._timers.get(generation)
        return None if timer is None else timer.when()
