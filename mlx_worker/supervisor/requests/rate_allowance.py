"""How often something may happen: a number at once, then so many each second. [front]"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Allowance:
    """A store that each `take` takes one from, refilled with time up to `at_once`."""

    def __init__(self, at_once: int, each_second: float, clock: Callable[[], float]) -> None:
        self._at_once = at_once
        self._each_second = each_second
        self._clock = clock
        self._left = float(at_once)
        self._as_of = clock()

    def take(self) -> bool:
        """Take one; False where none is left."""
        now = self._clock()
        refilled = self._left + max(0.0, now - self._as_of) * self._each_second
        self._left, self._as_of = min(self._at_once, refilled), now
        if self._left < 1:
            return False
        self._left -= 1
        return True
