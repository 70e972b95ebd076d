"""Decides when a child that ended is started again, and when it is given up.

The backoff is exponential with full jitter, so that children killed by one cause do not restart all
at once. The window is that of an OTP supervisor: after more ends than `intensity` within `period`
seconds the child is given up. Ends older than the period are forgotten, so a
child that has been stable starts with a clean sheet. A child that was given up is tried again
slowly: the pause doubles from one giving up to the next. Pure: time and chance are passed in.

[front]
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds, but for `intensity`: how many ends within `period` are forgiven.

    The pauses between slow retries double from `retry_initial` to `retry_max`.
    """

    base: float = 0.2
    ceiling: float = 30.0
    intensity: int = 6
    period: float = 120.0
    retry_initial: float = 30.0
    retry_max: float = 600.0


class RestartWindow:
    """The recent ends of one child, and what follows from them."""

    def __init__(self, policy: RestartPolicy, chance: random.Random) -> None:
        self._policy = policy
        self._chance = chance
        self._ends: deque[float] = deque()
        self._not_spawned = 0
        self._given_up = 0
        self._pardoned = False

    @property
    def period(self) -> float:
        """Seconds after which an end is forgotten."""
        return self._policy.period

    @property
    def allowed(self) -> int:
        """Return how many ends within the period are forgiven."""
        return self._policy.intensity

    def count(self, now: float) -> int:
        """Return how many ends the period up to now holds."""
        return sum(now - end <= self._policy.period for end in self._ends)

    def ended(self, now: float) -> float | None:
        """Count an end; return the delay in seconds before the next start, None to give up."""
        self._not_spawned = 0
        if not self._pardoned:
            self._ends.append(now)
        self._pardoned = False
        while self._ends and now - self._ends[0] > self._policy.period:
            self._ends.popleft()
        if len(self._ends) > self._policy.intensity:
            return None
        return self._backoff(max(1, len(self._ends)))

    def not_spawned(self) -> float:
        """Return the delay in seconds before the next try to start a process; never give up.

        The system refused a process (open files, memory, processes, a missing program): nothing
        is known against the model, so no end is counted.
        """
        self._not_spawned += 1
        return self._backoff(self._not_spawned)

    def gave_up(self) -> float:
        """Return the delay in seconds before the next slow retry, at least half of the longest.

        Half of the delay is certain, so that a model that cannot run costs little.
        """
        longest = _doubled(self._policy.retry_initial, self._given_up, self._policy.retry_max)
        self._given_up += 1
        return self._chance.uniform(longest / 2, longest)

    def pardon(self, deaths: int, *, last_is_counted: bool) -> None:
        """Take back the ends caused by a request that was refused for them.

        `last_is_counted`: False while the last death has not arrived at `ended`.
        """
        self._pardoned = not last_is_counted
        for _ in range(min(len(self._ends), deaths if last_is_counted else deaths - 1)):
            self._ends.pop()

    def forget(self) -> None:
        """Count anew: an operator has asked for a start, or the child was stable."""
        self._ends.clear()
        self._not_spawned = 0
        self._given_up = 0
        self._pardoned = False

    def _backoff(self, times: int) -> float:
        longest = _doubled(self._policy.base, times - 1, self._policy.ceiling)
        return self._chance.uniform(0.0, longest)


def _doubled(first: float, times: int, most: float) -> float:
    """Return `first` doubled `times` times, at most `most`."""
    return min(first * 2.0 ** min(times, 64), most)
