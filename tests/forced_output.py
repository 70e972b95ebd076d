"""Settings of an ordinary request that make a made model say what a test wants."""

from __future__ import annotations

from typing import Any

from tests.synthetic_models import IM_END

PENALTY = 2.0
STEP = 0.1
"""Between one bias and the next: all of them lie closer together than the penalty reaches."""


def foretold(tokenizer: Any, *tokens: str) -> dict[str, Any]:
    """Have it say these tokens in this order, each once, where it is greedy.

    The biases fall from token to token, and what was said is pushed below them all. Any tokens but
    whole words, of which the model has a mind of its own.
    """
    assert STEP * len(tokens) < PENALTY
    bias = {}
    for place, token in enumerate(tokens):
        (id_,) = tokenizer.encode(token)
        # The end of a turn stands in the prompt: the penalty has been at it before.
        bias[str(id_)] = 50 - STEP * place + (PENALTY if token == IM_END else 0)
    return {"logit_bias": bias, "presence_penalty": PENALTY}
