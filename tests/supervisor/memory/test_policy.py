"""What fits, who leaves, what follows when more is used than may be: facts in, decisions out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.supervisor.memory.policy import (
    Evict,
    Fits,
    Full,
    Ladder,
    NeverFits,
    Rung,
    Tenant,
    kv_budget,
    make_room,
    rest,
    surplus,
    trims,
    who_grew,
)

GB = 10**9


def idle(model: str, size: int, last_used: float = 0.0, **more: bool) -> Tenant:
    return Tenant(model, size * GB, size * GB, lodged=True, idle=True, last_used=last_used, **more)


def at_work(model: str, size: int) -> Tenant:
    return Tenant(model, size * GB, size * GB, lodged=True)


def wanted(size: int) -> Tenant:
    return Tenant("wanted", size * GB)


# --- room for a model -----------------------------------------------------------------------


def test_a_model_that_fits_beside_the_others_starts() -> None:
    assert make_room(wanted(4), [at_work("a", 6)], 10 * GB) == Fits()


def test_one_that_runs_no_more_takes_no_room() -> None:
    assert make_room(wanted(4), [Tenant("a", 9 * GB)], 10 * GB) == Fits()


def test_the_least_recently_used_leave_first_and_no_more_than_have_to() -> None:
    others = [idle("late", 3, 9.0), idle("first", 3, 1.0), idle("second", 3, 2.0)]
    assert make_room(wanted(3), others, 10 * GB) == Evict(("first",))
    assert make_room(wanted(7), others, 10 * GB) == Evict(("first", "second"))


def test_pinned_models_and_those_at_work_stay() -> None:
    others = [idle("pinned", 4, pinned=True), at_work("busy", 4)]
    verdict = make_room(wanted(4), others, 10 * GB)
    assert isinstance(verdict, Full)
    for part in ("4.0 GB of 10.0 GB", "pinned takes 4.0 GB (pinned)", "busy takes 4.0 GB"):
        assert part in verdict.why


def test_nobody_leaves_where_it_would_not_help() -> None:
    assert isinstance(make_room(wanted(7), [idle("a", 2), at_work("b", 6)], 10 * GB), Full)


def test_those_that_are_leaving_are_waited_for_and_nobody_else_is_sent() -> None:
    leaving = Tenant("a", 6 * GB, 6 * GB, lodged=True, leaving=True)
    assert make_room(wanted(6), [leaving, idle("b", 4)], 10 * GB) == Evict(())


def test_a_model_that_is_larger_than_the_limit_never_fits_and_nobody_leaves_for_it() -> None:
    verdict = make_room(wanted(11), [idle("a", 10)], 10 * GB)
    assert isinstance(verdict, NeverFits)
    assert "11.0 GB" in verdict.why
    assert "10.0 GB" in verdict.why


def test_what_a_process_has_grown_to_counts() -> None:
    grown = Tenant("a", 2 * GB, 7 * GB, lodged=True)
    assert isinstance(make_room(wanted(4), [grown], 10 * GB), Full)


TENANTS = st.builds(
    Tenant,
    model=st.uuids().map(str),
    at_start=st.integers(0, 20),
    used=st.none() | st.integers(0, 30),
    lodged=st.booleans(),
    leaving=st.booleans(),
    idle=st.booleans(),
    pinned=st.booleans(),
    last_used=st.floats(0, 100),
).filter(lambda it: it.lodged or not it.leaving)


@given(st.integers(0, 40), st.lists(TENANTS, max_size=6), st.integers(1, 60))
def test_whatever_is_decided_nothing_is_promised_that_does_not_fit(
    size: int, others: list[Tenant], limit: int
) -> None:
    held = {it.model: it for it in others if it.lodged}
    match make_room(Tenant("wanted", size), others, limit):
        case Fits():
            assert size + sum(it.needs for it in held.values()) <= limit
        case Evict(models):
            assert all(held[it].may_go for it in models)
            gone = [it for it in held.values() if it.model in models or it.leaving]
            staying = sum(it.needs for it in held.values()) - sum(it.needs for it in gone)
            assert size + staying <= limit
        case Full():
            staying = sum(it.needs for it in held.values() if not it.may_go and not it.leaving)
            assert size + staying > limit
        case NeverFits():
            assert size > limit


def test_running_rows_may_take_what_the_model_and_the_pinned_ones_leave() -> None:
    pinned, other = Tenant("p", 3 * GB, pinned=True), Tenant("o", 3 * GB)
    assert kv_budget(wanted(2), [pinned, other], 10 * GB) == 5 * GB
    assert kv_budget(wanted(9), [pinned], 10 * GB) == 0


# --- pressure -------------------------------------------------------------------------------


def test_pressure_trims_then_refuses_then_recycles_each_after_its_time() -> None:
    ladder = Ladder(looks=2)
    assert [ladder.look(11, 10) for _ in range(6)] == [
        Rung.TRIM,
        None,
        Rung.REFUSE,
        None,
        Rung.RECYCLE,
        None,
    ]
    assert ladder.look(11, 10) is Rung.RECYCLE  # and again, for somebody else


@pytest.mark.parametrize(
    ("looks", "refuses"), [(1, False), (2, False), (3, True), (4, True), (5, True)]
)
def test_new_work_is_refused_only_once_trimming_has_not_helped(looks: int, refuses: bool) -> None:
    ladder = Ladder(looks=2)
    for _ in range(looks):
        ladder.look(11, 10)
    assert ladder.refuses is refuses


def test_when_it_fits_again_all_is_well_and_that_is_said_once() -> None:
    ladder = Ladder(looks=1)
    ladder.look(11, 10)
    ladder.look(11, 10)
    assert ladder.look(10, 10) is Rung.CALM
    assert ladder.look(10, 10) is None
    assert not ladder.refuses
    assert ladder.look(11, 10) is Rung.TRIM


def test_the_largest_caches_are_trimmed_first_and_no_more_than_is_over() -> None:
    caches = {"small": 10, "large": 100, "none": 0}
    assert trims(60, caches) == {"large": 60}
    assert trims(105, caches) == {"large": 100, "small": 5}
    assert trims(1000, caches) == {"large": 100, "small": 10}


def test_the_process_that_grew_most_is_the_one_to_be_fresh() -> None:
    small = Tenant("small", 2 * GB, 3 * GB, lodged=True)
    large = Tenant("large", 2 * GB, 8 * GB, lodged=True, pinned=True)
    assert who_grew(3 * GB, [small, large]) is large


def test_a_fresh_process_that_would_hardly_help_is_not_made() -> None:
    assert who_grew(3 * GB, [Tenant("a", 2 * GB, 3 * GB, lodged=True)]) is None
    assert who_grew(3 * GB, []) is None


def test_the_idle_ones_that_rested_longest_go_and_no_more_than_have_to() -> None:
    late, early = idle("late", 5, 9.0), idle("early", 5, 1.0)
    staying = [at_work("busy", 5), idle("pinned", 5, pinned=True)]
    assert rest(1, [late, early, *staying]) == [early]
    assert rest(6 * GB, [late, early, *staying]) == [early, late]
    assert rest(99 * GB, [late, early, *staying]) == [early, late]
    assert rest(99, staying) == rest(0, [late, early]) == []


def test_what_is_leaving_already_is_counted_before_another_has_to_go() -> None:
    gone = Tenant("gone", 5 * GB, 5 * GB, lodged=True, leaving=True)
    assert rest(5 * GB, [gone, idle("idle", 5)]) == []


def test_what_processes_take_beyond_what_was_expected_is_their_median() -> None:
    assert surplus([]) == 0
    assert surplus([(15, 10), (18, 10), (1000, 10)]) == 8
    assert surplus([(5, 10)]) == 0
