"""Histograms with fixed buckets: adding a value costs a bisection.

The metrics endpoint reads them when it is called; nothing is formatted before. [front]
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Cumulative = tuple[tuple[float, int], ...]
"""Pairs (upper bound, number of values up to it), to infinity."""

# --- bounds, in seconds ---

FIRST_TOKEN: Final = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640,
)  # fmt: skip
"""From a cached prompt of a small model to a new prompt of 100,000 tokens."""

BETWEEN_TOKENS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1,
    2.5, 5, 10,
)  # fmt: skip
"""From 1,000 tokens a second to a pause as long as a long prefill."""

WHOLE_ANSWER: Final = (
    0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 90, 120, 180, 300, 600, 1200, 2400,
)  # fmt: skip
"""From a one-word answer to a long answer behind a long queue."""

CRASH_TO_TOKEN: Final = (0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300)
"""From a spare process and a small model to the longest wait of a stream."""

LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""From an idle event loop to a blocked one."""


class Histogram:
    """Counts by upper bound, those above the last included; `total` is the sum of all values."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add a value to the histogram, `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """Return the number of values."""
        return sum(self._counts)

    def counts(self) -> tuple[int, ...]:
        """Return the number of values in each bucket, which `since` takes."""
        return tuple(self._counts)

    def since(self, earlier: Sequence[int]) -> Cumulative:
        """Return pairs (upper bound, number of values up to it) of the values added since then.

        `earlier` are counts of this histogram. All values count if it is empty, or if its counts
        are of another histogram that this one has replaced.
        """
        added = [now - then for now, then in zip(self._counts, earlier, strict=False)]
        if not added or min(added) < 0:
            added = self._counts
        return tuple(zip((*self._bounds, inf), accumulate(added), strict=True))

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Return pairs (upper bound, number of values up to it), to infinity."""
        return zip((*self._bounds, inf), accumulate(self._counts), strict=True)


def quantile(seen: Cumulative, share: float) -> float | None:
    """Return the value that this share (0 to 1) of the values did not exceed, interpolated.

    None if there are no values; the last bound for what lies beyond it.
    """
    total = seen[-1][1]
    if not total:
        return None
    low, below = 0.0, 0
    for bound, times in seen:
        if times >= share * total and times > below:
            if bound == inf:
                return low
            return low + (bound - low) * (share * total - below) / (times - below)
        low, below = bound, times
    raise AssertionError("the last bucket has everything")
