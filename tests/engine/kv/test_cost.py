"""What is published of a model's KV is what its KV weighs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.engine.kv.cost import ENDLESS, max_row_tokens, measure_kv_cost
from mlx_worker.engine.loading import read_model
from mlx_worker.wire.kv_cost import KvCost, KvGrowth
from tests.synthetic_models import SPECS, make

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 256
"""Tokens that mlx_lm makes room for at once."""


@pytest.mark.parametrize("family", SPECS)
def test_a_row_weighs_what_was_published(family: str, tmp_path: Path) -> None:
    model, _, _ = read_model(make(family, tmp_path))
    cost = measure_kv_cost(model)
    cache = make_prompt_cache(model)
    for tokens in (BLOCK, BLOCK, 2 * BLOCK):
        model(mx.zeros((1, tokens), dtype=mx.int32), cache=cache)
        mx.eval([layer.state for layer in cache])
    # Once more, a token at a time: a full window has its width only then.
    for _ in range(2):
        model(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
        mx.eval([layer.state for layer in cache])
    weighs = sum(layer.nbytes for layer in cache)
    # Two tokens into the next block.
    assert cost.nbytes(5 * BLOCK) == weighs
    assert cost.nbytes(1) > 0


def test_full_attention_grows_for_ever_a_window_to_its_width_a_state_not_at_all(
    tmp_path: Path,
) -> None:
    costs = {
        family: measure_kv_cost(read_model(make(family, tmp_path / family))[0])
        for family in ("tiny", "window", "recurrent", "statespace")
    }
    assert [growth.until for growth in costs["tiny"].growing] == [None]
    # 2 layers, keys and values, 64 wide, 4 bytes each.
    assert costs["tiny"].nbytes(10) == 10 * 2 * 2 * 64 * 4
    assert {growth.until for growth in costs["window"].growing} == {32, None}
    assert not costs["recurrent"].growing
    assert costs["recurrent"].nbytes(1) == costs["recurrent"].nbytes(5000)
    assert costs["statespace"].fixed
    assert costs["statespace"].growing


@pytest.mark.parametrize(
    ("cost", "budget", "tokens"),
    [
        (KvCost(0, [KvGrowth(100, None)]), 1000, 10),
        (KvCost(5, [KvGrowth(100, None)]), 1000, 9),
        (KvCost(0, [KvGrowth(100, 4), KvGrowth(10, None)]), 1000, 60),
        (KvCost(0, [KvGrowth(100, 4)]), 1000, ENDLESS),
        (KvCost(500), 1000, ENDLESS),
        (KvCost(5000), 1000, 1),
        (KvCost(0, [KvGrowth(100, None)]), None, ENDLESS),
    ],
)
def test_the_longest_row_that_memory_has_room_for(
    cost: KvCost, budget: int | None, tokens: int
) -> None:
    assert max_row_tokens(cost, budget) == tokens
