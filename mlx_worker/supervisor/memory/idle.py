"""How long a model has not been used, and what follows when that is long enough. [front]"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class IdleTimer:
    """Calls `act` once nothing was used for `after` seconds; None: never.

    Whoever is called looks whether the model is at work: a use may last longer than the timer.
    `last_used` is on a clock finer than the loop's, which may stand still for a millisecond.
    """

    def __init__(
        self,
        after: float | None,
        act: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._act = act
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.after = after
        self.last_used = clock()

    def used(self) -> None:
        """It was needed until now."""
        self.last_used = self._clock()
        self.close()
        if self.after is not None:
            self._timer = self._loop.call_later(self.after, self._act)

    def close(self) -> None:
        """Nothing is to follow any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
