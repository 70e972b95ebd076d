"""Costs of steps are corrected by what steps take."""

from __future__ import annotations

import pytest

from mlx_worker.engine.speculation.ladder import ROWS, WIDTHS, Ladder
from mlx_worker.engine.speculation.pace import FREE_STEPS, RUN_IN, Paces, StepKind
from mlx_worker.engine.speculation.speculation import WIDEST, Speculation


class Hand:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(
    paces: Paces, clock: Hand, *, steps: int, takes: float, kind: StepKind, rows: int = 1
) -> None:
    """Steps that are expected to take a second, and take so long."""
    for _ in range(steps):
        paces.begin(rows, 1.0, kind)
        clock.now += takes


def test_factors_follow_the_steps_of_each_kind() -> None:
    clock = Hand()
    paces = Paces(clock)
    run(paces, clock, steps=40, takes=0.5, kind=StepKind.FREE)
    run(paces, clock, steps=40, takes=1.0, kind=StepKind.HELD)
    run(paces, clock, steps=40, takes=1.5, kind=StepKind.WIDE)
    pace = paces.of(1)
    assert pace.free == pytest.approx(0.5, abs=0.05)
    assert pace.held == pytest.approx(1.0, abs=0.05)
    assert pace.wide == pytest.approx(1.5, abs=0.05)


def test_what_steps_of_few_rows_take_says_nothing_of_steps_of_many() -> None:
    clock = Hand()
    paces = Paces(clock)
    for _ in range(3):
        run(paces, clock, steps=20, takes=2.0, kind=StepKind.FREE, rows=1)
        run(paces, clock, steps=20, takes=0.5, kind=StepKind.FREE, rows=4)
    assert paces.of(1).free == pytest.approx(2.0)
    assert paces.of(4).free == pytest.approx(0.5)


def test_new_number_of_rows_begins_with_what_the_nearest_one_takes_and_measures() -> None:
    clock = Hand()
    paces = Paces(clock)
    run(paces, clock, steps=20, takes=2.0, kind=StepKind.FREE, rows=1)
    run(paces, clock, steps=20, takes=0.5, kind=StepKind.FREE, rows=6)
    assert paces.of(5).free == pytest.approx(0.5)
    run(paces, clock, steps=RUN_IN + FREE_STEPS + 1, takes=0.8, kind=StepKind.FREE, rows=5)
    assert paces.of(5).free == pytest.approx(0.8)
    assert paces.of(6).free == pytest.approx(0.5)


def test_slow_step_among_free_ones_says_nothing() -> None:
    clock = Hand()
    paces = Paces(clock)
    for _ in range(20):
        run(paces, clock, steps=1, takes=3.0, kind=StepKind.FREE)
        run(paces, clock, steps=3, takes=0.5, kind=StepKind.FREE)
    assert paces.of(1).free == pytest.approx(0.5)


def test_narrow_step_behind_one_that_waited_says_nothing_of_steps_that_overlap() -> None:
    clock = Hand()
    paces = Paces(clock)
    for _ in range(40):
        run(paces, clock, steps=1, takes=3.0, kind=StepKind.WIDE)
        run(paces, clock, steps=1, takes=2.0, kind=StepKind.FREE)
    assert paces.of(1).free == 1.0
    assert paces.of(1).after == pytest.approx(1.0, abs=0.1)


def test_waits_in_vain_are_counted_and_forgotten() -> None:
    clock = Hand()
    paces = Paces(clock)
    for _ in range(20):
        run(paces, clock, steps=1, takes=1.0, kind=StepKind.HELD)
        run(paces, clock, steps=1, takes=1.0, kind=StepKind.WIDE)
    assert paces.of(1).vain == pytest.approx(0.5, abs=0.1)
    run(paces, clock, steps=10_000, takes=1.0, kind=StepKind.FREE)
    assert paces.of(1).vain < 0.05


def test_step_that_waited_for_work_teaches_nothing() -> None:
    clock = Hand()
    paces = Paces(clock)
    for kind in StepKind:
        run(paces, clock, steps=2, takes=100, kind=kind)
    paces.begin(1, 1.0, StepKind.FREE)
    pace = paces.of(1)
    assert (pace.free, pace.held, pace.wide) == (1.0, 1.0, 1.0)


def test_first_wide_step_replaces_what_was_assumed() -> None:
    """The ladder's passes are short of sampling: one wide step that does not pay is enough."""
    clock = Hand()
    paces = Paces(clock)
    run(paces, clock, steps=1, takes=4.0, kind=StepKind.WIDE)
    run(paces, clock, steps=1, takes=1.0, kind=StepKind.FREE)
    assert paces.of(1).wide == pytest.approx(4.0)


def test_wide_steps_that_were_slow_are_tried_again_some_time() -> None:
    clock = Hand()
    paces = Paces(clock)
    run(paces, clock, steps=40, takes=3, kind=StepKind.WIDE)
    before = paces.of(1).wide
    run(paces, clock, steps=10_000, takes=1, kind=StepKind.FREE)
    assert before > 2.5
    assert paces.of(1).wide == pytest.approx(1.0, abs=0.1)


def follow(seconds: dict[StepKind, float], *, found: float, steps: int = 1000) -> float:
    """Return how many tokens a second come, of a row whose drafts are right in half the places.

    Steps take so long by their kind. The row finds a draft in this share of its steps.
    """
    clock = Hand()
    ladder = Ladder({(rows, width): 1.0 for rows in ROWS for width in WIDTHS}, clock=clock)
    speculation = Speculation(ladder, 100_000, 1024)
    tokens, finds = 0.0, 0.0
    for _ in range(steps):
        drafts = [(WIDEST - 1, 0.5)]
        width, has_waited = 1, False
        if speculation.looks(1):
            width, _ = speculation.plan(1, drafts, 10)
            speculation.record_search(is_worth=width > 1)
        if width > 1:
            has_waited = True
            finds += found
            drafts = drafts if finds >= 1 else []
            finds %= 1
            width, _ = speculation.plan(1, drafts, 10, WIDEST, has_waited=True)
        speculation.begin_step(1, width, has_waited=has_waited)
        kind = StepKind.WIDE if width > 1 else StepKind.HELD if has_waited else StepKind.FREE
        clock.now += seconds[kind]
        tokens += 2 if width > 1 else 1
    return tokens / clock.now


def test_width_is_one_once_wide_steps_turn_out_to_be_slow() -> None:
    speed = follow({StepKind.FREE: 1.0, StepKind.HELD: 1.0, StepKind.WIDE: 4.0}, found=1.0)
    assert speed > 0.95


def test_row_does_not_wait_where_the_lost_overlap_costs_more_than_drafts_save() -> None:
    """A free step takes half as long as one that has waited: only narrow steps know that."""
    speed = follow({StepKind.FREE: 0.5, StepKind.HELD: 1.0, StepKind.WIDE: 1.3}, found=1.0)
    assert speed > 0.95 / 0.5


def test_row_does_not_wait_where_most_waits_are_in_vain() -> None:
    speed = follow({StepKind.FREE: 0.7, StepKind.HELD: 1.1, StepKind.WIDE: 1.2}, found=0.2)
    assert speed > 0.95 / 0.7


def test_row_drafts_where_wide_steps_pay() -> None:
    speed = follow({StepKind.FREE: 1.0, StepKind.HELD: 1.1, StepKind.WIDE: 1.2}, found=1.0)
    assert speed > 0.95 * 2 / 1.2
