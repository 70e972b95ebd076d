"""Medians, quantiles, and the spread of the values of several rounds. Pure.

[bench]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0..1) of all do not exceed; NaN of none.

    The result is always one of the values, never one between two: of ten, the 0.99 quantile is the
    largest.
    """
    if not values:
        return math.nan
    rank = math.ceil(share * len(values))
    return sorted(values)[max(0, rank - 1)]


def median(values: Sequence[float]) -> float:
    """Return the median; of an even number the mean of the middle two; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[-1 - middle]) / 2


@dataclass(frozen=True)
class Spread:
    """What the rounds brought: their median, and how far they lay apart."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of the rounds that have a value; None if no round has one."""
    seen = [value for value in values if not math.isnan(value)]
    return Spread(median(seen), min(seen), max(seen)) if seen else None


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Round by round: a machine that drifts does so for both of a round alike."""
    return [a / b for a, b in zip(of, to, strict=True) if b and not math.isnan(a / b)]
