"""The KV of a batch whose rows draft takes the memory that was accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache, KVCache

from mlx_worker.engine.loading import read_model
from mlx_worker.engine.speculation.kv import close_gap, drop_last, free_columns
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.drafting_harness import FREE, Row, assert_same, begin, play

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.engine.speculation.ladder import Ladder


@pytest.fixture(scope="module")
def loaded(nano: Path) -> tuple[Any, Any]:
    model, tokenizer, _ = read_model(nano)
    return model, tokenizer


def filled(lengths: list[int]) -> tuple[list[BatchKVCache], list[KVCache]]:
    """Return the KV of a batch, and that of each row alone; a token is its place in the row."""
    alone: list[KVCache] = []
    for row, length in enumerate(lengths):
        cache = KVCache()
        places = mx.arange(length, dtype=mx.float32) + 1000 * row
        cache.update_and_fetch(
            *[mx.broadcast_to(places[None, None, :, None], (1, 2, length, 4))] * 2
        )
        alone.append(cache)
    return [BatchKVCache.merge(alone)], alone


def places(cache: BatchKVCache, row: int) -> list[float]:
    kept: list[float] = cache.extract(row).keys[0, 0, :, 0].tolist()
    return kept


def test_rows_lose_their_own_numbers_of_tokens() -> None:
    cache, alone = filled([9, 20, 14])
    drop_last(cache, [3, 0, 7])
    for row, (one, lost) in enumerate(zip(alone, [3, 0, 7], strict=True)):
        expected = one.keys[0, 0, : one.offset - lost, 0].tolist()
        assert places(cache[0], row) == expected
    assert cache[0].offset.tolist() == [6, 20, 7]


def test_padding_that_all_rows_have_is_closed_and_its_memory_kept() -> None:
    cache, _ = filled([9, 20, 14])
    drop_last(cache, [0, 8, 2])
    before = [places(cache[0], row) for row in range(3)]
    columns = cache[0].keys.shape[2]
    close_gap(cache, 12)
    assert cache[0].size() == 12
    assert free_columns(cache) == columns - 12
    assert [places(cache[0], row) for row in range(3)] == before
    assert cache[0].left_padding.tolist() == [3, 0, 0]
    close_gap(cache, 12)
    assert cache[0].size() == 12


def largest_batch(loaded: tuple[Any, Any], rows: list[Row], ladder: Ladder | None) -> int:
    """Return how many tokens the KV of the batch has room for at most, in all rows together."""
    played = begin(loaded, rows, ladder)
    most = 0
    while played.engine.active:
        played.step()
        for layer in played.engine._batch._generation_batch.prompt_cache:
            most = max(most, layer.keys.shape[0] * layer.keys.shape[2])
    return most


@pytest.mark.parametrize(
    ("read", "answered"),
    [
        pytest.param(202, 40, id="leaves a gap"),
        pytest.param(236, 18, id="is near a block's end", marks=pytest.mark.full),
    ],
)
def test_short_row_that_copies_beside_a_long_one_takes_no_more_memory(
    loaded: tuple[Any, Any], read: int, answered: int
) -> None:
    copying = Row(ChatRequest([], Sampling(seed=4, temperature=0.9), 160), tuple(range(300, 310)))
    answer = play(loaded, [copying], None).results[0].tokens
    rows = [
        Row(copying.request, copying.prompt, tuple(answer)),
        Row(
            ChatRequest([], Sampling(seed=5, temperature=0.9), answered),
            tuple(range(310, 310 + read)),
        ),
    ]
    assert largest_batch(loaded, rows, FREE) <= largest_batch(loaded, rows, None)
    drafted, plain = play(loaded, rows), play(loaded, rows, None)
    assert_same(drafted, plain)
    assert drafted.engine.speculation.accepted > 80
