"""Disk or prefill: what was measured decides."""

from __future__ import annotations

import pytest

from mlx_worker.engine.kv.disk.reading_choice import START_RATE, ReadSpeed, prefill_seconds


def test_prefill_takes_what_was_measured_here() -> None:
    assert prefill_seconds(3000, 1500.0, recorded=99.0) == 2.0


def test_prefill_takes_what_was_recorded_before_anything_was_measured() -> None:
    assert prefill_seconds(3000, None, recorded=7.0) == 7.0


def test_the_disk_is_used_where_reading_takes_less_time() -> None:
    speed = ReadSpeed(100.0)
    assert speed.is_faster(99, prefill=1.0)
    assert not speed.is_faster(101, prefill=1.0)


def test_speed_follows_the_reads_of_this_process() -> None:
    speed = ReadSpeed(100.0)
    for _ in range(20):
        speed.record(nbytes=500, seconds=1.0)
    assert speed.rate == pytest.approx(500.0, rel=1e-3)


@pytest.mark.parametrize(("nbytes", "seconds"), [(0, 1.0), (5, 0.0)])
def test_a_read_without_bytes_or_time_says_nothing(nbytes: int, seconds: float) -> None:
    speed = ReadSpeed(100.0)
    speed.record(nbytes, seconds)
    assert speed.rate == 100.0


def test_a_disk_that_was_slow_once_is_tried_again() -> None:
    speed = ReadSpeed(START_RATE)
    for _ in range(10):
        speed.record(nbytes=1, seconds=1.0)
    refusals = 0
    while not speed.is_faster(int(START_RATE / 2), prefill=1.0):
        refusals += 1
    assert 5 < refusals < 50


def test_refusals_do_not_make_a_fast_disk_slow() -> None:
    speed = ReadSpeed(10 * START_RATE)
    assert not speed.is_faster(int(20 * START_RATE), prefill=1.0)
    assert speed.rate == 10 * START_RATE
