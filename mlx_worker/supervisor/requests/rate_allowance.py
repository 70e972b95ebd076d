"""A rate limit: a number of actions at once, then a number each second.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Allowance:
    """A bucket of tokens that each `try_spend` takes one from; time refills it up to `at_once`."""

    def __init__(self, at_once: int, each_second: float, clock: Callable[[], float]) -> None:
        self._at_once = at_once
        self._each_second = each_second
        self._clock = clock
        self._left = float(at_once)
        self._as_of = clock()

    def try_spend(self) -> bool:
        """Take a token; return False if none is left."""
        now = self._clock()
        refilled = self._left + max(0.0, now - self._as_of) * self._each_second
        self._left, self._as_of = min(self._at_once, refilled), now
        if self._left < 1:
            return False
        self._left -= 1
        return True
