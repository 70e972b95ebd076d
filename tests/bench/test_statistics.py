"""Medians, quantiles and ratios: the arithmetic that every printed figure goes through."""

from __future__ import annotations

import math

import pytest

from mlx_worker.bench.statistics import Spread, median, quantile, ratios, spread

NAN = math.nan


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.1, 1), (0.11, 2), (0.5, 5), (0.99, 10), (1.0, 10)]
)
def test_a_quantile_is_a_value_that_was_seen(share: float, expected: float) -> None:
    assert quantile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == expected


def test_a_median_is_the_middle_or_the_mean_of_two() -> None:
    assert median([5, 1, 9]) == 5
    assert median([4, 1, 9, 2]) == 3


def test_nothing_has_no_median_and_no_quantile() -> None:
    assert math.isnan(median([]))
    assert math.isnan(quantile([], 0.5))


def test_a_spread_leaves_out_rounds_that_measured_nothing() -> None:
    assert spread([3, NAN, 1, 2]) == Spread(2, 1, 3)
    assert spread([NAN, NAN]) is None
    assert spread([]) is None


def test_ratios_are_of_the_same_round() -> None:
    # The machine was three times slower in the second round, for both.
    assert ratios([10, 30], [5, 15]) == [2, 2]


def test_a_round_that_one_of_them_missed_has_no_ratio() -> None:
    assert ratios([10, NAN, 8, 6], [5, 5, NAN, 0]) == [2]
