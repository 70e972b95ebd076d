"""Which tokens end an answer, and how they are ruled out while the answer is too short.

Both depend on the request and on the place in the answer alone: a replay and the neighbours in a
batch make no difference. The meaning of the fields is vLLM's. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.generate import StopSequences

from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from mlx_worker.wire.request import EndConditions

_NEVER: Final = -float("inf")


def ending_tokens(ends: EndConditions, eos: Collection[int]) -> frozenset[int]:
    """Return the tokens that end an answer; `eos` are the model's own end tokens."""
    return frozenset(ends.stop_token_ids).union(() if ends.ignore_eos else eos)


class EndTokens(StopSequences):  # type: ignore[misc]  # mlx_lm has no types
    """The tokens that end an answer, as mlx_lm's batch takes them."""

    def __init__(self, tokens: Collection[int]) -> None:
        self.tokens = sorted(tokens)
        super().__init__([[token] for token in self.tokens])


def check_stop_tokens(ends: EndConditions, vocabulary: int) -> None:
    """Raise InvalidRequest for a stop token that is none of the model's."""
    for token in ends.stop_token_ids:
        if not 0 <= token < vocabulary:
            raise InvalidRequest(
                f"stop_token_ids: token id {token} is outside the vocabulary of {vocabulary}",
                param="stop_token_ids",
            )


class MinimumLength:
    """Rule end tokens out until prompt and answer have `length` tokens together."""

    def __init__(self, ends: Collection[int], length: int) -> None:
        self._ends = sorted(ends)
        self._length = length

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Return logits (1, vocabulary) of what follows `tokens`, early end tokens ruled out.

        A tokenizer may have more tokens than its model has logits.
        """
        if len(tokens) < self._length:
            ends = [token for token in self._ends if token < logits.shape[-1]]
            if ends:
                logits[:, mx.array(ends)] = _NEVER
        return logits


def length_processors(ends: EndConditions, eos: Collection[int], prompt_tokens: int) -> list[Any]:
    """Return the processors that keep an answer from ending too early; most requests have none."""
    ruled_out = {*ends.stop_token_ids, *eos}
    if not ends.min_tokens or not ruled_out:
        return []
    return [MinimumLength(ruled_out, prompt_tokens + ends.min_tokens)]
