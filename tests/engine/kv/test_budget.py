"""Running rows stay inside their KV budget: what does not fit waits, what never fits is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.kv.cost import measure_kv_cost
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prefill import fits
from mlx_worker.engine.prompt import Prompt, render
from mlx_worker.engine.sequence import AHEAD, Sequence
from mlx_worker.errors import KvTooLarge
from mlx_worker.wire.kv_cost import BLOCK, KvCost, KvGrowth
from mlx_worker.wire.messages import Started
from mlx_worker.wire.output import StepOutput
from mlx_worker.wire.request import ChatRequest, Sampling

if TYPE_CHECKING:
    from pathlib import Path

COST = KvCost(growing=[KvGrowth(10)])
ROW = 10 * BLOCK


def sequence(tokens: int, max_tokens: int, *, bounded: bool = True) -> Sequence:
    return Sequence(1, Prompt([0] * tokens, 0, ""), None, max_tokens=max_tokens, bounded=bounded)


def test_rows_cost_what_the_longest_costs_because_a_batch_is_padded() -> None:
    short, long = sequence(10, 20), sequence(2 * BLOCK, BLOCK)
    assert fits(short, [long], COST, 2 * 3 * ROW)
    assert not fits(short, [long], COST, 2 * 3 * ROW - 1)
    assert fits(short, [], COST, ROW)
    assert fits(long, [long, long], COST, None)


def test_an_answer_without_a_limit_counts_as_it_grows() -> None:
    row = sequence(100, 8000, bounded=False)
    assert row.expected_kv_tokens == 100 + AHEAD
    row.produced = 700
    assert row.expected_kv_tokens == 100 + 700 + AHEAD
    row.produced = 7900
    assert row.expected_kv_tokens == 8100


@pytest.fixture(scope="module")
def loaded(nano: Path) -> tuple[Any, Any]:
    model, tokenizer, _ = read_model(nano)
    return model, tokenizer


def engine(loaded: tuple[Any, Any], rows: float) -> Engine:
    """With a budget for so many rows of one block each."""
    cost = measure_kv_cost(loaded[0])
    budget = int(rows * cost.nbytes(BLOCK))
    return Engine(*loaded, context_length=8192, max_concurrency=8, kv=cost, kv_bytes=budget)


def admit(engine: Engine, id_: int, max_tokens: int | None) -> object:
    request = ChatRequest(
        [{"role": "user", "content": f"hello {id_}"}], Sampling(seed=1), max_tokens=max_tokens
    )
    return engine.admit(id_, request, render(engine._tokenizer, request.messages, {}))


def spoken(engine: Engine) -> tuple[dict[int, list[int]], int]:
    """What each said until nobody is left, and the most that were running at once."""
    tokens: dict[int, list[int]] = {}
    most = 0
    while engine.active:
        for said in engine.step():
            if isinstance(said, StepOutput):
                most = max(most, len(said.rows))
                for row in said.rows:
                    tokens.setdefault(row.id, []).extend(row.tokens)
    return tokens, most


def test_more_rows_than_fit_wait_and_say_what_they_would_have_said(
    loaded: tuple[Any, Any],
) -> None:
    free, tight = engine(loaded, 100), engine(loaded, 2.5)
    for id_ in range(6):
        admit(free, id_, 20)
        admit(tight, id_, 20)
    expected, together = spoken(free)
    said, at_once = spoken(tight)
    assert said == expected
    assert (together, at_once) == (6, 2)


def test_what_could_never_fit_is_refused_with_the_numbers(loaded: tuple[Any, Any]) -> None:
    small = engine(loaded, 1)
    with pytest.raises(KvTooLarge, match=r"KV of \d+ tokens, .*KB; .*KB") as refused:
        admit(small, 1, 1000)
    assert refused.value.param == "max_tokens"
    with pytest.raises(KvTooLarge):
        small.admit_warm(2, [1] * 600, "")
    assert small.active == 0
    assert admit(small, 3, 20)


def test_an_answer_that_no_memory_is_free_for_is_counted_as_it_grows(
    loaded: tuple[Any, Any],
) -> None:
    small = engine(loaded, 4)
    assert isinstance(admit(small, 1, 7000), Started)
    assert admit(small, 2, 7000) is None
    small.cancel(1)
    small.cancel(2)


def test_a_row_that_waits_for_memory_can_be_cancelled(loaded: tuple[Any, Any]) -> None:
    tight = engine(loaded, 1)
    assert isinstance(admit(tight, 1, 20), Started)
    assert admit(tight, 2, 20) is None
    done = tight.cancel(2)
    assert done
    assert done.finish == "cancelled"
    said, _ = spoken(tight)
    assert list(said) == [1]


def test_trimming_forgets_about_as_much_as_is_asked(loaded: tuple[Any, Any]) -> None:
    free = engine(loaded, 100)
    for id_ in range(5):
        admit(free, id_, 20)
    spoken(free)
    before = free.cache.facts
    free.trim_cache(before.nbytes // 2)
    after = free.cache.facts
    assert 0 < after.entries < before.entries
    assert after.nbytes <= before.nbytes - before.nbytes // 2
    free.trim_cache(1 << 40)
    assert free.cache.facts.nbytes == 0
