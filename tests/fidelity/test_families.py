"""The table of families is true, of mlx_lm as it is installed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.models import cache as caches
from mlx_lm.models.cache import CacheList, make_prompt_cache

from tests.fidelity.families import BATCHED, UNBATCHED
from tests.fidelity.reference import Ask
from tests.fidelity.scenarios import tokens
from tests.synthetic_models import SPECS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fidelity.reference import Model

pytestmark = pytest.mark.fidelity


def described(cache: Any) -> str:
    name = type(cache).__name__
    if isinstance(cache, CacheList):
        return f"{name}({', '.join(map(described, cache.caches))})"
    return name


@pytest.mark.parametrize("family", [*BATCHED, *UNBATCHED])
def test_a_family_has_the_caches_that_the_table_says(
    family: str, model_of: Callable[[str], Model]
) -> None:
    proof = {**BATCHED, **UNBATCHED}[family]
    made = make_prompt_cache(model_of(family).model)
    assert tuple(map(described, made)) == proof.caches


def test_every_made_model_is_in_the_table() -> None:
    # nano is tiny with a layer less, caller is nano with another tokenizer, pipelined is for ranks.
    assert {*BATCHED, *UNBATCHED} == SPECS.keys() - {"nano", "caller", "pipelined"}


def test_every_cache_that_mlx_lm_can_batch_is_proven() -> None:
    batchable = {
        name
        for name, cache in inspect.getmembers(caches, inspect.isclass)
        if hasattr(cache, "merge") and not name.startswith("Batch")
    }
    proven = " ".join(cache for proof in BATCHED.values() for cache in proof.caches)
    assert {name for name in batchable if name not in proven} == set()


def test_the_shares_make_a_whole() -> None:
    proofs = [*BATCHED.values(), *UNBATCHED.values()]
    assert sum(proof.share for proof in proofs) == pytest.approx(1)


@pytest.mark.parametrize("family", UNBATCHED)
def test_mlx_lm_still_answers_wrongly_where_the_table_says_so(
    family: str, model_of: Callable[[str], Model]
) -> None:
    # The smallest case: two prompts of unequal length, read together. Once this fails, mlx_lm
    # has learned it and the family may move to BATCHED.
    model = model_of(family)
    short, long = Ask(tokens(0, 1, 3), max_tokens=8), Ask(tokens(0, 2, 30), max_tokens=8)
    batch = BatchGenerator(model.model)
    uids = batch.insert([list(short.prompt), list(long.prompt)], [8, 8])
    said: dict[int, list[int]] = {uid: [] for uid in uids}
    while any(len(answer) < 8 for answer in said.values()):
        for response in batch.next_generated():
            said[response.uid].append(response.token)
    assert said[uids[0]] != model.answer(short).tokens
    assert said[uids[1]] == model.answer(long).tokens
