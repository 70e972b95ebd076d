"""The steepness of a curve: the power of the size by which a cost grows, between neighbours.

0: the cost does not grow; 1: the cost doubles with the size. Pure. [bench]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.bench.statistics import Spread


ALLOWED: Final = 0.25
"""By how much a slope may miss its bound: a logarithm is no worse than linear, nor is noise."""


@dataclass(frozen=True)
class Slope:
    """The slope from one size to the next: by medians, and the least that the rounds allow."""

    median: float
    least: float

    def is_worse_than(self, bound: float) -> bool:
        """Return True if the slope is steeper, however the rounds are read."""
        return self.least > bound + ALLOWED


def slopes(points: Sequence[tuple[int, Spread]]) -> list[Slope | None]:
    """Return one slope from each point to the next; None if a value is 0 and has no logarithm."""
    return [_slope(*before, *after) for before, after in pairwise(points)]


def _slope(size: int, low: Spread, larger: int, high: Spread) -> Slope | None:
    if min(low.low, high.low) <= 0:
        return None
    run = math.log(larger / size)
    return Slope(
        median=math.log(high.median / low.median) / run,
        least=math.log(high.low / low.high) / run,
    )
