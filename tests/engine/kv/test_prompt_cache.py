"""Which prefixes are found, which are kept, and why one is missed. KV as mlx_lm makes it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, KVCache

from mlx_worker.engine.kv.prompt_cache import PromptCache, RetentionClass
from mlx_worker.limits import WARM_PROMPTS


def kv(tokens: list[int]) -> list[Any]:
    """KV that can be cut, and that says what it is of."""
    layer = KVCache()
    values = mx.array(tokens, dtype=mx.float32).reshape(1, 1, len(tokens), 1)
    layer.update_and_fetch(values, values)
    return [layer]


def state(tokens: list[int]) -> list[Any]:
    """A recurrent state: good for exactly these tokens."""
    layer = ArraysCache(1)
    layer[0] = mx.array(tokens)
    return [layer]


def told(found: list[Any] | None) -> list[int]:
    """The tokens that some KV is of."""
    assert found is not None
    (layer,) = found
    held = layer[0] if isinstance(layer, ArraysCache) else layer.keys[0, 0, : layer.offset, 0]
    return [int(token) for token in held.tolist()]


A_BLOCK = sum(layer.nbytes for layer in kv([1]))


@pytest.fixture
def cache() -> PromptCache:
    return PromptCache()


prompts = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(st.lists(prompts, max_size=12), prompts)
def test_the_longest_prefix_is_found_and_cut_to_length(
    known: list[list[int]], prompt: list[int]
) -> None:
    cache = PromptCache()
    for tokens in known:
        cache.store(tokens, kv(tokens), RetentionClass.ANONYMOUS)
    found, length = cache.fetch(prompt)
    most = prompt[:-1]
    assert length == max((shared(tokens, most) for tokens in known), default=0)
    assert found is None if not length else told(found) == prompt[:length]


def test_too_short_a_prefix_is_not_fetched(cache: PromptCache) -> None:
    cache.store([1, 2, 3, 4], kv([1, 2, 3, 4]), RetentionClass.ANONYMOUS)
    assert cache.fetch([1, 2, 3, 9, 9], least=4) == (None, 0)
    assert cache.fetch([1, 2, 3, 9, 9], least=3)[1] == 3


@given(st.lists(prompts, max_size=12), prompts)
def test_what_cannot_be_cut_is_found_where_it_is_whole(
    known: list[list[int]], prompt: list[int]
) -> None:
    cache = PromptCache()
    for tokens in known:
        cache.store(tokens, state(tokens), RetentionClass.ANONYMOUS)
    found, length = cache.fetch(prompt)
    most = prompt[:-1]
    whole = [tokens for tokens in known if tokens == most[: len(tokens)]]
    assert length == max((len(tokens) for tokens in whole), default=0)
    assert found is None if not length else told(found) == prompt[:length]
    assert cache.facts.entries == len({tuple(tokens) for tokens in known})


def shared(a: list[int], b: list[int]) -> int:
    return [*(x == y for x, y in zip(a, b, strict=False)), False].index(False)


def test_what_is_fetched_can_be_written_to_without_harm(cache: PromptCache) -> None:
    cache.store([1, 2, 3], kv([1, 2, 3]), RetentionClass.ANONYMOUS)
    found, _ = cache.fetch([1, 2, 3, 4])
    assert found is not None
    more = mx.full((1, 1, 1, 1), 9.0)
    found[0].update_and_fetch(more, more)
    again, _ = cache.fetch([1, 2, 3, 4])
    assert told(again) == [1, 2, 3]


def test_a_turn_takes_the_place_of_the_turn_it_extends_but_not_of_a_head(
    cache: PromptCache,
) -> None:
    cache.store([1], kv([1]), RetentionClass.SYSTEM_PROMPT)
    cache.store([1, 2], kv([1, 2]), RetentionClass.ANONYMOUS)
    cache.store([1, 2, 3], kv([1, 2, 3]), RetentionClass.ANONYMOUS)
    assert cache.facts.entries == 2
    assert cache.resident([1, 9]) == 1


def test_least_recently_used_goes_first_and_being_found_is_use(cache: PromptCache) -> None:
    cache = PromptCache(3 * A_BLOCK)
    for token in (1, 2, 3):
        cache.store([token, 0], kv([token, 0]), RetentionClass.ANONYMOUS)
    cache.fetch([1, 0, 5])
    cache.store([4, 0], kv([4, 0]), RetentionClass.ANONYMOUS)
    cache.shrink_to_budget(0)
    assert [cache.resident([token, 0]) for token in (1, 2, 3, 4)] == [2, 0, 2, 2]


def test_sessions_outlive_strangers_heads_outlive_sessions_and_nobody_lives_for_ever() -> None:
    cache = PromptCache(4 * A_BLOCK)
    cache.store([100], kv([100]), RetentionClass.SYSTEM_PROMPT)
    cache.store([200], kv([200]), RetentionClass.SESSION)
    gone = []
    for token in range(90):
        cache.store([token], kv([token]), RetentionClass.ANONYMOUS)
        cache.shrink_to_budget(0)
        gone += [token for token in (100, 200) if token not in gone and not cache.resident([token])]
        assert cache.resident([token]) == 1
    assert gone == [200, 100]


def test_running_rows_count_in_the_budget_and_warmed_prompts_go_last() -> None:
    cache = PromptCache(3 * A_BLOCK)
    cache.store([1], kv([1]), RetentionClass.PINNED)
    cache.store([2], kv([2]), RetentionClass.SYSTEM_PROMPT)
    cache.store([3], kv([3]), RetentionClass.ANONYMOUS)
    cache.shrink_to_budget(0)
    assert cache.facts.nbytes == 3 * A_BLOCK
    cache.shrink_to_budget(A_BLOCK)
    assert [cache.resident([token]) for token in (1, 2, 3)] == [1, 1, 0]
    cache.shrink_to_budget(2 * A_BLOCK)
    assert [cache.resident([token]) for token in (1, 2, 3)] == [1, 0, 0]
    cache.shrink_to_budget(3 * A_BLOCK)
    assert cache.facts.entries == cache.facts.warmed == cache.facts.nbytes == 0


def test_warmed_prompts_have_a_limit_of_their_own(cache: PromptCache) -> None:
    for token in range(WARM_PROMPTS + 2):
        cache.store([token], kv([token]), RetentionClass.PINNED)
    assert cache.facts.warmed == WARM_PROMPTS
    assert [cache.resident([token]) for token in (0, 1, 2)] == [0, 0, 1]


def test_a_warmed_prompt_stays_warmed_when_traffic_reads_it_again(cache: PromptCache) -> None:
    cache.store([1], kv([1]), RetentionClass.PINNED)
    cache.store([1], kv([1]), RetentionClass.SYSTEM_PROMPT)
    assert cache.facts.warmed == 1


def test_a_miss_has_its_reason(cache: PromptCache) -> None:
    assert cache.explain_miss([1]) == "new"
    assert cache.explain_miss([1]) == "evicted"
    cache.clear()
    assert cache.explain_miss([1]) == "cleared"
    assert cache.explain_miss([1]) == "evicted"
    assert cache.explain_miss([2]) == "new"
