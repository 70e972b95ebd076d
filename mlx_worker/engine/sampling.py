"""Choosing the next token, by counter instead of by state.

The draw for position i of a request uses a key made of (seed, i) and nothing else, so one seed
gives one answer whatever else is in the batch, and a sequence continued from token i draws what it
would have drawn. The filters (top-p, min-p, top-k) and the penalties are mlx_lm's own, in its
order; only its global random state is replaced. [child]
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    greedy_sampler,
    make_logits_processors,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.wire.messages import Sampling


def key_seed(seed: int, position: int) -> int:
    """64 bits that depend on (seed, position) and on nothing else."""
    counter = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(counter, digest_size=8).digest(), "little")


class KeyedSampler:
    """Draws the tokens of one row from `position` on; one call is one position."""

    def __init__(self, sampling: Sampling, vocabulary: int, position: int = 0) -> None:
        self._seed = sampling.seed
        self._scale = 1.0 / sampling.temperature
        self._filters = _filters(sampling, vocabulary)
        self._position = position

    def __call__(self, logprobs: mx.array) -> mx.array:
        """Log-probabilities (1, vocabulary) in, token ids (1,) out."""
        for narrow in self._filters:
            logprobs = narrow(logprobs)
        key = mx.random.key(key_seed(self._seed, self._position))
        self._position += 1
        return mx.random.categorical(logprobs * self._scale, key=key)


def _filters(sampling: Sampling, vocabulary: int) -> list[Callable[[mx.array], mx.array]]:
    filters: list[Callable[[mx.array], mx.array]] = []
    if 0 < sampling.top_p < 1:
        filters.append(lambda x: apply_top_p(x, sampling.top_p))
    if sampling.min_p > 0:
        filters.append(lambda x: apply_min_p(x, sampling.min_p, 1))
    if 0 < sampling.top_k < vocabulary:
        filters.append(lambda x: apply_top_k(x, sampling.top_k))
    return filters


def make_sampler(
    sampling: Sampling, vocabulary: int, position: int = 0
) -> Callable[[mx.array], mx.array]:
    """A sampler for one row, which has `position` tokens already.

    Greedy rows share one object: they are sampled in one call.
    """
    if sampling.temperature == 0:
        return greedy_sampler  # type: ignore[no-any-return]
    return KeyedSampler(sampling, vocabulary, position)


def make_processors(sampling: Sampling) -> list[Any]:
    """Mlx_lm's logits processors for what this request asks; empty costs nothing."""
    return make_logits_processors(  # type: ignore[no-any-return]
        logit_bias=sampling.logit_bias or None,
        repetition_penalty=sampling.repetition_penalty
        if sampling.repetition_penalty != 1
        else None,
        presence_penalty=sampling.presence_penalty or None,
        frequency_penalty=sampling.frequency_penalty or None,
    )
