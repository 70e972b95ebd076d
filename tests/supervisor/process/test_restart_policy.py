"""When a child that ended comes back, and when not."""

from __future__ import annotations

import random

import pytest

from mlx_worker.supervisor.process.restart_policy import RestartPolicy, RestartWindow


class Longest(random.Random):
    """Chance at its worst: the whole of every range."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


class Shortest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return min(a, b)


PATIENT = RestartPolicy(base=0.5, ceiling=4.0, intensity=100, period=1e9)


def window(policy: RestartPolicy, chance: random.Random | None = None) -> RestartWindow:
    return RestartWindow(policy, chance or random.Random(7))


def test_the_longest_delay_doubles_with_each_end_up_to_the_ceiling() -> None:
    ends = window(PATIENT, Longest())
    assert [ends.count_end(float(now)) for now in range(6)] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_the_shortest_delay_is_none_at_all() -> None:
    ends = window(PATIENT, Shortest())
    assert [ends.count_end(float(now)) for now in range(6)] == [0.0] * 6


@pytest.mark.parametrize("end", range(5))
def test_chance_uses_the_whole_range(end: int) -> None:
    """Full jitter: children felled by one cause do not come back as one herd."""
    longest = min(0.5 * 2**end, 4.0)
    delays = []
    for seed in range(300):
        ends = window(PATIENT, random.Random(seed))
        delays.append([ends.count_end(0.0) for _ in range(end + 1)][-1])
    known = [delay for delay in delays if delay is not None]
    assert len(known) == 300
    assert min(known) >= 0
    assert max(known) <= longest
    assert min(known) < 0.05 * longest
    assert max(known) > 0.95 * longest


@pytest.mark.parametrize("intensity", [0, 1, 3])
def test_one_end_more_than_the_intensity_is_one_too_many(intensity: int) -> None:
    ends = window(RestartPolicy(intensity=intensity, period=10.0))
    delays = [ends.count_end(now * 0.1) for now in range(intensity + 1)]
    assert all(delay is not None for delay in delays[:-1])
    assert delays[-1] is None


def test_an_end_counts_for_the_whole_period() -> None:
    ends = window(RestartPolicy(intensity=1, period=10.0))
    ends.count_end(0.0)
    assert ends.count_end(10.0) is None


def test_an_end_older_than_the_period_is_forgotten() -> None:
    ends = window(RestartPolicy(base=1.0, ceiling=8.0, intensity=2, period=10.0), Longest())
    assert [ends.count_end(0.0), ends.count_end(1.0), ends.count_end(10.5)] == [1.0, 2.0, 2.0]
    assert ends.count_end(30.0) == 1.0


def test_a_child_that_ends_seldom_is_never_given_up() -> None:
    ends = window(RestartPolicy(intensity=1, period=10.0))
    assert all(ends.count_end(now * 10.1) is not None for now in range(1000))


def test_forgetting_gives_a_clean_sheet() -> None:
    ends = window(RestartPolicy(base=1.0, ceiling=8.0, intensity=2, period=10.0), Longest())
    assert [ends.count_end(0.0) for _ in range(3)] == [1.0, 2.0, None]
    ends.reset()
    assert [ends.count_end(0.0) for _ in range(3)] == [1.0, 2.0, None]
