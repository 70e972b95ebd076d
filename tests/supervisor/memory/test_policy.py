"""What fits, who leaves, what follows when more is used than may be: facts in, decisions out."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.config.schema import CacheConfig
from mlx_worker.config.sizes import Size
from mlx_worker.kv_disk.memory import queue_bytes, read_bytes
from mlx_worker.supervisor.memory.policy import (
    PROCESS_BYTES,
    Admit,
    AdmitAfterEviction,
    MemoryClaim,
    PressureEscalation,
    PressureLevel,
    Reject,
    Wait,
    bytes_to_trim,
    decide_start,
    disk_buffers,
    expected_bytes,
    kv_budget,
    median_excess,
    model_to_recycle,
    models_to_unload,
)
from tests.supervisor_harness import planned

GB = 10**9


def idle(model: str, size: int, last_used: float = 0.0, **more: bool) -> MemoryClaim:
    return MemoryClaim(
        model, size * GB, size * GB, is_resident=True, is_idle=True, last_used=last_used, **more
    )


def at_work(model: str, size: int) -> MemoryClaim:
    return MemoryClaim(model, size * GB, size * GB, is_resident=True)


def wanted(size: int) -> MemoryClaim:
    return MemoryClaim("wanted", size * GB)


# --- room for a model -----------------------------------------------------------------------


def test_a_model_that_fits_beside_the_others_starts() -> None:
    assert decide_start(wanted(4), [at_work("a", 6)], 10 * GB) == Admit()


def test_one_that_runs_no_more_takes_no_room() -> None:
    assert decide_start(wanted(4), [MemoryClaim("a", 9 * GB)], 10 * GB) == Admit()


def test_the_least_recently_used_leave_first_and_no_more_than_have_to() -> None:
    others = [idle("late", 3, 9.0), idle("first", 3, 1.0), idle("second", 3, 2.0)]
    assert decide_start(wanted(3), others, 10 * GB) == AdmitAfterEviction(("first",))
    assert decide_start(wanted(7), others, 10 * GB) == AdmitAfterEviction(("first", "second"))


def test_pinned_models_and_those_at_work_stay() -> None:
    others = [idle("pinned", 4, is_pinned=True), at_work("busy", 4)]
    verdict = decide_start(wanted(4), others, 10 * GB)
    assert isinstance(verdict, Wait)
    for part in ("4.0 GB of 10.0 GB", "pinned takes 4.0 GB (pinned)", "busy takes 4.0 GB"):
        assert part in verdict.why


def test_nobody_leaves_where_it_would_not_help() -> None:
    assert isinstance(decide_start(wanted(7), [idle("a", 2), at_work("b", 6)], 10 * GB), Wait)


def test_those_that_are_leaving_are_waited_for_and_nobody_else_is_sent() -> None:
    leaving = MemoryClaim("a", 6 * GB, 6 * GB, is_resident=True, is_leaving=True)
    assert decide_start(wanted(6), [leaving, idle("b", 4)], 10 * GB) == AdmitAfterEviction(())


def test_a_model_that_is_larger_than_the_limit_never_fits_and_nobody_leaves_for_it() -> None:
    verdict = decide_start(wanted(11), [idle("a", 10)], 10 * GB)
    assert isinstance(verdict, Reject)
    assert "11.0 GB" in verdict.why
    assert "10.0 GB" in verdict.why


def test_what_a_process_has_grown_to_counts() -> None:
    growth = MemoryClaim("a", 2 * GB, 7 * GB, is_resident=True)
    assert isinstance(decide_start(wanted(4), [growth], 10 * GB), Wait)


TENANTS = st.builds(
    MemoryClaim,
    model=st.uuids().map(str),
    at_start=st.integers(0, 20),
    used=st.none() | st.integers(0, 30),
    is_resident=st.booleans(),
    is_leaving=st.booleans(),
    is_idle=st.booleans(),
    is_pinned=st.booleans(),
    last_used=st.floats(0, 100),
).filter(lambda item: item.is_resident or not item.is_leaving)


@given(st.integers(0, 40), st.lists(TENANTS, max_size=6), st.integers(1, 60))
def test_whatever_is_decided_nothing_is_promised_that_does_not_fit(
    size: int, others: list[MemoryClaim], limit: int
) -> None:
    held = {other.model: other for other in others if other.is_resident}
    match decide_start(MemoryClaim("wanted", size), others, limit):
        case Admit():
            assert size + sum(claim.reserved_bytes for claim in held.values()) <= limit
        case AdmitAfterEviction(models):
            assert all(held[model].is_evictable for model in models)
            gone = [claim for claim in held.values() if claim.model in models or claim.is_leaving]
            staying = sum(claim.reserved_bytes for claim in held.values()) - sum(
                claim.reserved_bytes for claim in gone
            )
            assert size + staying <= limit
        case Wait():
            staying = sum(
                claim.reserved_bytes
                for claim in held.values()
                if not claim.is_evictable and not claim.is_leaving
            )
            assert size + staying > limit
        case Reject():
            assert size > limit


def test_running_rows_may_take_what_the_model_and_the_pinned_ones_leave() -> None:
    pinned, other = MemoryClaim("p", 3 * GB, is_pinned=True), MemoryClaim("o", 3 * GB)
    assert kv_budget(wanted(2), [pinned, other], 10 * GB) == 5 * GB
    assert kv_budget(wanted(9), [pinned], 10 * GB) == 0


def test_kv_on_its_way_to_disk_leaves_rows_the_rest_and_never_less_than_most() -> None:
    with_disk = dataclasses.replace(wanted(2), disk_buffers=GB)
    assert kv_budget(with_disk, [], 10 * GB) == 7 * GB
    assert kv_budget(with_disk, [], 3 * GB) == GB - GB // 4


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20, 100 << 20, 4 << 30, 1 << 40])
def test_what_the_disk_takes_beside_the_cache_is_a_part_of_the_cache(cache_bytes: int) -> None:
    model = planned(cache_bytes=Size(cache_bytes)).config
    on, off = CacheConfig(), CacheConfig(disk=False)
    assert disk_buffers(model, on) == queue_bytes(cache_bytes) + read_bytes(cache_bytes)
    assert disk_buffers(model, on) <= cache_bytes
    assert queue_bytes(cache_bytes) <= 512 << 20
    assert disk_buffers(model, off) == 0
    assert disk_buffers(planned(disk_cache=False).config, on) == 0
    assert disk_buffers(planned(ranks=2).config, on) == 0


# --- pressure -------------------------------------------------------------------------------


def test_each_process_of_a_model_is_expected_to_take_memory() -> None:
    assert expected_bytes(planned(weights=GB)) == GB + PROCESS_BYTES
    assert expected_bytes(planned(weights=GB, ranks=3)) == GB + 3 * PROCESS_BYTES


def test_pressure_trims_then_refuses_then_recycles_each_after_its_time() -> None:
    ladder = PressureEscalation(checks=2)
    assert [ladder.check(11, 10) for _ in range(6)] == [
        PressureLevel.TRIM,
        None,
        PressureLevel.REFUSE,
        None,
        PressureLevel.RECYCLE,
        None,
    ]
    assert ladder.check(11, 10) is PressureLevel.RECYCLE  # and again, for somebody else


@pytest.mark.parametrize(
    ("looks", "refuses"), [(1, False), (2, False), (3, True), (4, True), (5, True)]
)
def test_new_work_is_refused_only_once_trimming_has_not_helped(looks: int, refuses: bool) -> None:
    ladder = PressureEscalation(checks=2)
    for _ in range(looks):
        ladder.check(11, 10)
    assert ladder.refuses_work is refuses


def test_when_it_fits_again_all_is_well_and_that_is_said_once() -> None:
    ladder = PressureEscalation(checks=1)
    ladder.check(11, 10)
    ladder.check(11, 10)
    assert ladder.check(10, 10) is PressureLevel.CALM
    assert ladder.check(10, 10) is None
    assert not ladder.refuses_work
    assert ladder.check(11, 10) is PressureLevel.TRIM


def test_the_largest_caches_are_trimmed_first_and_no_more_than_is_over() -> None:
    caches = {"small": 10, "large": 100, "none": 0}
    assert bytes_to_trim(60, caches) == {"large": 60}
    assert bytes_to_trim(105, caches) == {"large": 100, "small": 5}
    assert bytes_to_trim(1000, caches) == {"large": 100, "small": 10}


def test_the_process_that_grew_most_is_the_one_to_be_fresh() -> None:
    small = MemoryClaim("small", 2 * GB, 3 * GB, is_resident=True)
    large = MemoryClaim("large", 2 * GB, 8 * GB, is_resident=True, is_pinned=True)
    assert model_to_recycle(3 * GB, [small, large]) is large


def test_a_fresh_process_that_would_hardly_help_is_not_made() -> None:
    assert model_to_recycle(3 * GB, [MemoryClaim("a", 2 * GB, 3 * GB, is_resident=True)]) is None
    assert model_to_recycle(3 * GB, []) is None


def test_the_idle_ones_that_rested_longest_go_and_no_more_than_have_to() -> None:
    late, early = idle("late", 5, 9.0), idle("early", 5, 1.0)
    staying = [at_work("busy", 5), idle("pinned", 5, is_pinned=True)]
    assert models_to_unload(1, [late, early, *staying]) == [early]
    assert models_to_unload(6 * GB, [late, early, *staying]) == [early, late]
    assert models_to_unload(99 * GB, [late, early, *staying]) == [early, late]
    assert models_to_unload(99, staying) == models_to_unload(0, [late, early]) == []


def test_what_is_leaving_already_is_counted_before_another_has_to_go() -> None:
    gone = MemoryClaim("gone", 5 * GB, 5 * GB, is_resident=True, is_leaving=True)
    assert models_to_unload(5 * GB, [gone, idle("idle", 5)]) == []


def test_what_processes_take_beyond_what_was_expected_is_their_median() -> None:
    assert median_excess([]) == 0
    assert median_excess([(15, 10), (18, 10), (1000, 10)]) == 8
    assert median_excess([(5, 10)]) == 0
