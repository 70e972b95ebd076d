"""Unloads a model that has not been used for a while.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.supervisor.process.pause import PauseDetector, Timer


class IdleTimer:
    """Calls `act` after `after` seconds without use, and without a pause in them; None: never.

    `act` has to check whether the model is busy: a use may last longer than the timer.
    `last_used` is on a clock finer than the loop's, which may stand still for a millisecond.
    """

    def __init__(
        self,
        after: float | None,
        act: Callable[[], object],
        pause: PauseDetector,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._act = act
        self._pause = pause
        self._clock = clock
        self._timer: Timer | None = None
        self.after = after
        self.last_used = clock()

    def used(self) -> None:
        """Note a use that ends now, and start the timer anew."""
        self.last_used = self._clock()
        self.close()
        if self.after is not None:
            self._timer = self._pause.timer(self.after, self._act)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
