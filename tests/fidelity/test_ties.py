"""What counts as a tie."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_worker.wire.request import Sampling
from tests.fidelity.ties import TIE, tokens_near


def logprobs(*ahead: float) -> mx.array:
    """Log-probabilities whose first tokens are ahead of all others, of which no two are alike."""
    logits = mx.array([*ahead, *(-place / 50 for place in range(60))])
    return logits - mx.logsumexp(logits)


def test_two_tokens_that_rounding_may_exchange_are_a_tie() -> None:
    assert tokens_near(logprobs(9, 9 + TIE / 2, 8), Sampling(seed=0), 3) == {0, 1}


def test_token_that_is_further_behind_is_none() -> None:
    assert tokens_near(logprobs(9, 9 + 3 * TIE), Sampling(seed=0), 3) == {1}


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 3}], ids=str)
def test_sampled_token_is_drawn_at_its_position(settings: dict[str, float]) -> None:
    """The same draw from nearly the same log-probabilities is nearly always the same token."""
    sampling = Sampling(seed=1, temperature=1.0, **settings)  # type: ignore[arg-type]
    found = [tokens_near(logprobs(3, 2.5, 2), sampling, position) for position in range(20)]
    assert sum(len(tokens) > 1 for tokens in found) <= 1
    assert len(set.union(*found)) > 1
