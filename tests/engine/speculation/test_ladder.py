"""Measured passes, and how wide a pass becomes by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.loading import read_model
from mlx_worker.engine.speculation.ladder import ROWS, WIDTHS, Ladder, ladder_of, measure_ladder
from mlx_worker.engine.speculation.speculation import WIDEST, Speculation
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path

    import mlx.core as mx
    from mlx_lm.models.cache import KVCache

CONTEXT = 1000
VOCABULARY = 1024


class Clock:
    """Seconds that pass only while a model computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A model whose passes take as long as a rule says."""

    def __init__(self, model: Any, clock: Clock, seconds: Any) -> None:
        self._model, self._clock, self._seconds = model, clock, seconds
        self.layers = model.layers
        self.passes: list[tuple[int, ...]] = []

    def __call__(self, inputs: mx.array, cache: list[KVCache]) -> Any:
        self._clock.now += self._seconds(*inputs.shape)
        self.passes.append(inputs.shape)
        return self._model(inputs, cache=cache)


@pytest.fixture(scope="module")
def model(nano: Path) -> Any:
    return read_model(nano)[0]


def measured(model: Any, seconds: Any, rows: int = 8) -> tuple[Ladder, list[tuple[int, ...]]]:
    clock = Clock()
    timed = Timed(model, clock, seconds)
    return measure_ladder(timed, rows, clock=clock), timed.passes


def test_each_rung_is_measured_and_costs_between_are_estimated(model: Any) -> None:
    ladder, _ = measured(model, lambda rows, width: 1e-3 * (10 + rows * width))
    assert set(ladder.seconds) == {(rows, width) for rows in ROWS for width in WIDTHS}
    assert ladder.because == ""
    for rows in (1, 2, 3, 6, 8, 20):
        for width in range(1, 9):
            assert ladder.cost(rows, width) == pytest.approx(1e-3 * (10 + rows * width))


def test_no_more_rows_are_measured_than_the_model_takes(model: Any) -> None:
    ladder, _ = measured(model, lambda rows, width: 1e-3 * (10 + rows * width), rows=3)
    assert {rows for rows, _ in ladder.seconds} == {1, 3}


def test_model_that_gains_nothing_does_not_draft_and_says_why(model: Any) -> None:
    ladder, passes = measured(model, lambda rows, width: 1e-2 * rows * width)
    assert ladder.because == "a forward pass of 2 tokens takes 2 times as long as one of 1"
    assert max(width for _, width in passes) == 2
    assert not Speculation(ladder, CONTEXT, VOCABULARY).pays(1)


def test_slow_model_is_measured_with_one_row_alone(model: Any) -> None:
    ladder, _ = measured(model, lambda _rows, width: 0.5 + 0.01 * width)
    assert {rows for rows, _ in ladder.seconds} == {1}
    assert ladder.because == ""


def test_very_slow_pass_is_not_repeated(model: Any) -> None:
    ladder, passes = measured(model, lambda _rows, width: 5.0 * width)
    assert passes == [(1, 1), (1, 2)]
    assert ladder.because != ""


@pytest.mark.parametrize("name", ["window", "recurrent", "statespace"])
def test_model_whose_kv_cannot_be_cut_does_not_draft(name: str, tmp_path: Path) -> None:
    loaded, _, _ = read_model(make(name, tmp_path / name))
    assert measure_ladder(loaded, 8) == Ladder({}, "the model's KV cannot be cut at any token")


def test_model_without_batches_does_not_draft(tmp_path: Path) -> None:
    loaded, _, _ = read_model(make("unpadded", tmp_path / "unpadded"))
    assert "takes no batch" in measure_ladder(loaded, 8).because


def test_configuration_turns_drafts_off(model: Any) -> None:
    assert ladder_of(model, 8, "off").because == 'the configuration has speculation = "off"'


def steep(slope: float) -> Speculation:
    """Passes whose cost rises by this share of one of a token, for each further token."""
    seconds = {(rows, width): 1 + slope * (rows * width - 1) for rows in ROWS for width in WIDTHS}
    return Speculation(Ladder(seconds), CONTEXT, VOCABULARY)


def test_width_rises_with_the_hit_rate_and_falls_with_the_cost() -> None:
    by_rate = [steep(0.15).plan(1, [(7, rate)], 10)[0] for rate in (0.05, 0.4, 0.7, 1.0)]
    assert by_rate == sorted(by_rate)
    assert by_rate[0] == 1
    assert by_rate[-1] == WIDEST
    by_cost = [steep(slope).plan(1, [(7, 0.8)], 10)[0] for slope in (0.01, 0.2, 0.5, 0.9)]
    assert by_cost == sorted(by_cost, reverse=True)
    assert by_cost[-1] == 1


def test_width_is_no_more_than_drafts_and_context_allow() -> None:
    assert steep(0.01).plan(1, [(2, 1.0)], 10)[0] == 3
    assert steep(0.01).plan(1, [(7, 1.0)], CONTEXT - 4)[0] == 4
    assert steep(0.01).plan(1, [], 10)[0] == 1


def test_width_bounds_the_memory_of_logits() -> None:
    seconds = {(rows, width): 1.0 for rows in ROWS for width in WIDTHS}
    speculation = Speculation(Ladder(seconds), CONTEXT, vocabulary=262_144)
    assert speculation.plan(1, [(7, 1.0)] * 1, 10)[0] == WIDEST
    assert speculation.plan(64, [(7, 1.0)] * 64, 10)[0] < WIDEST


def test_one_row_that_copies_pays_less_among_rows_that_do_not() -> None:
    speculation = steep(0.2)
    assert speculation.plan(1, [(7, 0.95)], 10)[0] > 1
    assert speculation.plan(8, [(7, 0.95)], 10)[0] == 1


def test_gain_is_asked_for_every_number_of_rows() -> None:
    seconds = {(1, 1): 1.0, (1, 8): 1.5, (8, 1): 1.0, (8, 8): 8.5}
    speculation = Speculation(Ladder(seconds), CONTEXT, VOCABULARY)
    assert speculation.pays(1)
    assert not speculation.pays(8)
