"""Costs of steps are corrected by what steps take."""

from __future__ import annotations

import pytest

from mlx_worker.engine.speculation.ladder import ROWS, WIDTHS, Ladder
from mlx_worker.engine.speculation.pace import StepPace
from mlx_worker.engine.speculation.speculation import Speculation


class Hand:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(pace: StepPace, clock: Hand, *, steps: int, takes: float, is_wide: bool) -> None:
    """Steps that are expected to take a second, and take so long."""
    for _ in range(steps):
        pace.begin(1.0, is_wide=is_wide)
        clock.now += takes


def test_factors_follow_the_steps_of_each_kind() -> None:
    clock = Hand()
    pace = StepPace(clock)
    run(pace, clock, steps=40, takes=0.5, is_wide=False)
    run(pace, clock, steps=40, takes=1.5, is_wide=True)
    assert pace.narrow == pytest.approx(0.5, abs=0.05)
    assert pace.wide == pytest.approx(1.5, abs=0.05)


def test_step_that_waited_for_work_teaches_nothing() -> None:
    clock = Hand()
    pace = StepPace(clock)
    run(pace, clock, steps=1, takes=100, is_wide=False)
    run(pace, clock, steps=1, takes=100, is_wide=True)
    pace.begin(1.0, is_wide=False)
    assert (pace.narrow, pace.wide) == (1.0, 1.0)


def test_wide_steps_that_were_slow_are_tried_again_some_time() -> None:
    clock = Hand()
    pace = StepPace(clock)
    run(pace, clock, steps=40, takes=3, is_wide=True)
    before = pace.wide
    run(pace, clock, steps=1000, takes=1, is_wide=False)
    assert before > 2.5
    assert pace.wide == pytest.approx(1.0, abs=0.1)


def test_width_is_one_once_wide_steps_turn_out_to_be_slow() -> None:
    clock = Hand()
    ladder = Ladder({(rows, width): 1.0 for rows in ROWS for width in WIDTHS}, clock=clock)
    speculation = Speculation(ladder, 1000, 1024)
    widths: list[int] = []
    for _ in range(30):
        widths.append(speculation.width(1, [(7, 0.5)], 10))
        speculation.begin_step(1, widths[-1])
        clock.now += 1.0 if widths[-1] == 1 else 4.0
    assert widths[0] == WIDTHS[-1]
    assert widths[-1] == 1
