"""Decides when a child that ended is started again, and when it is given up.

The backoff is exponential with full jitter, so that children killed by one cause do not restart all
at once. The window is that of an OTP supervisor: after more ends than `intensity` within `period`
seconds the child is given up. Ends older than the period no longer count. A child that was given
up is tried again slowly: the pause doubles from one giving up to the next. The module reads no
clock and has no source of random numbers: both are passed in.

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
    """Times are in seconds; `intensity` is the number of ends that are allowed within `period`.

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

    def __init__(self, policy: RestartPolicy, randomness: random.Random) -> None:
        self._policy = policy
        self._random = randomness
        self._ends: deque[float] = deque()
        self._failed_spawns = 0
        self._given_up = 0
        self._next_is_forgiven = False

    @property
    def period(self) -> float:
        """Return the seconds after which an end no longer counts."""
        return self._policy.period

    @property
    def allowed(self) -> int:
        """Return how many ends within the period are allowed."""
        return self._policy.intensity

    def recent_ends(self, now: float) -> int:
        """Return how many ends there were within the period up to now."""
        return sum(now - end <= self._policy.period for end in self._ends)

    def count_end(self, now: float) -> float | None:
        """Count an end; return the delay in seconds before the next start, None to give up."""
        self._failed_spawns = 0
        if not self._next_is_forgiven:
            self._ends.append(now)
        self._next_is_forgiven = False
        while self._ends and now - self._ends[0] > self._policy.period:
            self._ends.popleft()
        if len(self._ends) > self._policy.intensity:
            return None
        return self._backoff(max(1, len(self._ends)))

    def count_failed_spawn(self) -> float:
        """Count a spawn that failed; return the delay in seconds before the next try.

        The system refused a process (open files, memory, processes, a missing program): nothing
        is known against the model, so no end is counted, and the child is never given up.
        """
        self._failed_spawns += 1
        return self._backoff(self._failed_spawns)

    def count_giving_up(self) -> float:
        """Count that the child was given up; return the delay in seconds before the slow retry.

        The delay is at least half of the longest, so that a model that cannot run costs little.
        """
        longest = _doubled(self._policy.retry_initial, self._given_up, self._policy.retry_max)
        self._given_up += 1
        return self._random.uniform(longest / 2, longest)

    def forgive_ends(self, ends: int, *, last_is_counted: bool) -> None:
        """Take back the ends caused by a request that was refused for them.

        `last_is_counted`: False while the last end has not arrived at `count_end`.
        """
        self._next_is_forgiven = not last_is_counted
        for _ in range(min(len(self._ends), ends if last_is_counted else ends - 1)):
            self._ends.pop()

    def reset(self) -> None:
        """Forget all counts: an operator has asked for a start, or the child was stable."""
        self._ends.clear()
        self._failed_spawns = 0
        self._given_up = 0
        self._next_is_forgiven = False

    def _backoff(self, times: int) -> float:
        longest = _doubled(self._policy.base, times - 1, self._policy.ceiling)
        return self._random.uniform(0.0, longest)


def _doubled(first: float, times: int, most: float) -> float:
    """Return `first` doubled `times` times, at most `most`."""
    return min(first * 2.0 ** min(times, 64), most)
