"""Whether a model fits, with how many rows and tokens: the arithmetic alone."""

from __future__ import annotations

import pytest

from mlx_worker.supervisor.memory.fit import MemoryFit, Question, pinned_claims
from mlx_worker.supervisor.memory.policy import PROCESS_BYTES
from mlx_worker.wire.kv_cost import BLOCK, KvCost, KvGrowth
from mlx_worker.wire.memory_needs import MemoryNeeds

PER_TOKEN = 10
WEIGHTS = 1000
FULL = KvCost(0, [KvGrowth(PER_TOKEN)])
WINDOW = KvCost(0, [KvGrowth(PER_TOKEN, until=BLOCK)])


def fit(
    blocks: int, kv: KvCost | None = FULL, context: int | None = None, unbatched: str = ""
) -> MemoryFit:
    """A model beside which KV of this many blocks of tokens fits."""
    limit = WEIGHTS + PROCESS_BYTES + blocks * BLOCK * PER_TOKEN
    return MemoryFit(MemoryNeeds(WEIGHTS, kv, unbatched), WEIGHTS, context, limit)


def test_rows_and_context_share_the_budget_in_blocks() -> None:
    model = fit(blocks=12)
    assert model.kv_budget == 12 * BLOCK * PER_TOKEN
    assert [model.max_context(rows) for rows in (1, 2, 5, 12)] == [
        12 * BLOCK,
        6 * BLOCK,
        2 * BLOCK,
        BLOCK,
    ]
    assert [model.max_rows(tokens) for tokens in (1, BLOCK, BLOCK + 1, 12 * BLOCK)] == [
        12,
        12,
        6,
        1,
    ]


def test_what_fits_is_what_the_largest_context_says() -> None:
    model = fit(blocks=4)
    assert model.answer(Question()) is True
    assert model.answer(Question(rows=2, context=2 * BLOCK)) is True
    assert model.answer(Question(rows=2, context=2 * BLOCK + 1)) is False
    assert model.answer(Question(rows=5)) is False


def test_the_models_own_context_bounds_a_row() -> None:
    model = fit(blocks=100, context=300)
    assert model.max_context(1) == 300
    assert model.answer(Question(context=300)) is True
    assert model.answer(Question(context=301)) is False


def test_a_window_takes_any_context_of_the_model() -> None:
    assert fit(blocks=1, kv=WINDOW, context=1 << 20).max_context(1) == 1 << 20
    assert fit(blocks=1, kv=WINDOW, context=1 << 20).max_context(2) == 0


def test_a_model_served_alone_has_one_row() -> None:
    model = fit(blocks=4, unbatched="because")
    assert model.max_rows(BLOCK) == 1
    assert model.max_context(8) == 4 * BLOCK


def test_weights_over_the_limit_do_not_fit() -> None:
    needs = MemoryNeeds(WEIGHTS, FULL)
    model = MemoryFit(needs, WEIGHTS, None, PROCESS_BYTES)
    assert model.starts is False
    assert model.kv_budget == 0
    assert model.answer(Question()) is False


def test_each_process_of_a_model_in_ranks_takes_memory() -> None:
    model = MemoryFit(MemoryNeeds(WEIGHTS, FULL), WEIGHTS, None, 1 << 40, ranks=3)
    assert model.start_bytes == WEIGHTS + 3 * PROCESS_BYTES


@pytest.mark.parametrize("context", [None, 100])
def test_unknown_kv_or_weights_are_no_answer(context: int | None) -> None:
    assert fit(blocks=9, kv=None).answer(Question(context=context)) is None
    without = MemoryFit(MemoryNeeds(None, FULL), None, None, 1 << 40)
    assert without.answer(Question(context=context)) is None
    assert without.max_rows(100) is None


def test_weights_over_the_limit_do_not_fit_whatever_kv_costs() -> None:
    model = MemoryFit(MemoryNeeds(WEIGHTS, None), WEIGHTS, None, 1)
    assert model.answer(Question()) is False


def test_pinned_models_take_of_the_budget() -> None:
    needs = MemoryNeeds(WEIGHTS, FULL)
    limit = 2 * (WEIGHTS + PROCESS_BYTES) + 5
    model = MemoryFit(needs, WEIGHTS, None, limit, pinned_claims([WEIGHTS]))
    assert model.kv_budget == 5
    assert model.starts is True
    assert MemoryFit(needs, WEIGHTS, None, limit - 6, model.pinned).starts is False
