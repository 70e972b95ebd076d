"""When a child that ended is started again, and when that is pointless.

Exponential backoff with full jitter, so that children felled by one cause do not come back as one
herd, inside the intensity-and-period window of an OTP supervisor: more ends than `intensity`
within `period` seconds and the child is given up. Ends older than the period are forgotten, so a
child that has been stable starts with a clean sheet. Pure: time and chance are passed in. [front]
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds, but for `intensity`: how many ends within `period` are forgiven."""

    base: float = 0.2
    ceiling: float = 30.0
    intensity: int = 6
    period: float = 120.0


class RestartWindow:
    """The recent ends of one child, and what follows from them."""

    def __init__(self, policy: RestartPolicy, chance: random.Random) -> None:
        self._policy = policy
        self._chance = chance
        self._ends: deque[float] = deque()

    @property
    def period(self) -> float:
        """Seconds after which an end is forgotten."""
        return self._policy.period

    def ended(self, now: float) -> float | None:
        """The delay in seconds before the next start; None: give up."""
        self._ends.append(now)
        while now - self._ends[0] > self._policy.period:
            self._ends.popleft()
        if len(self._ends) > self._policy.intensity:
            return None
        longest = self._policy.base * 2.0 ** (len(self._ends) - 1)
        return self._chance.uniform(0.0, min(longest, self._policy.ceiling))

    def forget(self) -> None:
        """An operator asked: whatever was, count anew."""
        self._ends.clear()
