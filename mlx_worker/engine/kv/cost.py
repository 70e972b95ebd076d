"""What the KV of one row costs, measured on the model itself.

One token is read into a fresh cache and each layer's arrays are measured: full attention grows
with every token, a sliding window up to its width, a recurrent state not at all. What mlx_lm holds
in reserve (blocks of 256 tokens) counts as tokens. [child]
"""

from __future__ import annotations

import bisect
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import CacheList, RotatingKVCache, make_prompt_cache

from mlx_worker.wire.kv_cost import KvCost, KvGrowth

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDLESS: Final = 1 << 40
"""Tokens: the context of a model whose files state none, where memory sets no bound either."""


class _TracedError(Exception):
    """Raised when a trace has gone through the model: nothing is left to do."""


def measure_kv_cost(model: Any) -> KvCost:
    """Return the cost of a row, measured by reading one token."""
    cache = make_prompt_cache(model)
    model(mx.array([[0]]), cache=cache)
    mx.eval([layer.state for layer in cache])
    return _cost_of(cache)


def trace_kv_cost(model: Any) -> KvCost:
    """Return the same from the shapes of the arrays alone: no weight is read or computed.

    Raises ValueError for a model whose code looks at computed values.
    """
    cache = make_prompt_cache(model)

    def read(token: mx.array) -> mx.array:
        model(token, cache=cache)
        raise _TracedError

    try:
        mx.compile(read)(mx.array([[0]]))  # a trace refuses to compute what depends on the token
    except _TracedError:
        return _cost_of(cache)
    raise AssertionError("a trace ends by its exception")


def max_row_tokens(cost: KvCost, budget: int | None) -> int:
    """Return the tokens of the longest row that fits into `budget` bytes; None: any length.

    This bounds the prompt and the answer of a model that states no context length.
    """
    if budget is None:
        return ENDLESS
    return max(1, bisect.bisect_right(range(ENDLESS + 1), budget, key=cost.nbytes) - 1)


def _cost_of(cache: list[Any]) -> KvCost:
    """Return the cost of a row by a cache that holds one token."""
    fixed = 0
    growing: Counter[int | None] = Counter()
    for layer in _leaves(cache):
        keys = getattr(layer, "keys", None)
        if keys is None:
            fixed += layer.nbytes
            continue
        (_, first), *_ = tree_flatten([keys])
        until = layer.max_size if isinstance(layer, RotatingKVCache) else None
        growing[until] += layer.nbytes // first.shape[-2]
    return KvCost(fixed, [KvGrowth(per_token, until) for until, per_token in growing.items()])


def _leaves(cache: list[Any]) -> Iterator[Any]:
    for layer in cache:
        if isinstance(layer, CacheList):
            yield from _leaves(list(layer.caches))
        else:
            yield layer
