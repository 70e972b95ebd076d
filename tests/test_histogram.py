"""Buckets: every value in the one it belongs to."""

from math import inf

from mlx_worker.histogram import Histogram, quantile


def test_a_value_counts_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((1, 2, 5))
    for value in (0.5, 1, 1.5, 5, 7):
        histogram.observe(value)
    assert list(histogram.cumulative()) == [(1, 2), (2, 3), (5, 4), (inf, 5)]
    assert histogram.total == 15


def test_a_value_may_be_seen_many_times_at_once() -> None:
    histogram = Histogram((1, 2))
    histogram.observe(1.5, 32)
    assert list(histogram.cumulative()) == [(1, 0), (2, 32), (inf, 32)]
    assert histogram.total == 48


def test_a_quantile_lies_in_its_bucket_as_if_that_were_evenly_filled() -> None:
    seen = Histogram((1, 2, 4))
    assert quantile(tuple(seen.cumulative()), 0.5) is None
    seen.observe(1.5, times=4)
    assert quantile(tuple(seen.cumulative()), 0.5) == 1.5
    assert quantile(tuple(seen.cumulative()), 1) == 2
    seen.observe(3, times=4)
    assert quantile(tuple(seen.cumulative()), 0.5) == 2
    assert quantile(tuple(seen.cumulative()), 0.75) == 3


def test_what_lies_beyond_the_last_bound_is_said_to_be_that() -> None:
    seen = Histogram((1, 2, 4))
    seen.observe(100)
    assert quantile(tuple(seen.cumulative()), 0.5) == 4


def test_since_has_what_was_added() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(0.5)
    earlier = histogram.counts()
    histogram.observe(1.5, times=2)
    assert histogram.since(earlier) == ((1.0, 0), (2.0, 2), (inf, 2))
    assert histogram.since(()) == tuple(histogram.cumulative())


def test_since_of_a_replaced_histogram_has_everything() -> None:
    before, after = Histogram((1.0,)), Histogram((1.0,))
    before.observe(0.5, times=5)
    after.observe(0.5)
    assert after.since(before.counts()) == ((1.0, 1), (inf, 1))
