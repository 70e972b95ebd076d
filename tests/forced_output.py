"""Settings of an ordinary request that force the output of a synthetic model."""

from __future__ import annotations

from typing import Any

from tests.synthetic_models import IM_END

PENALTY = 2.0
STEP = 0.1
"""Between two biases: all biases together span less than the penalty."""


def force_output(tokenizer: Any, *tokens: str) -> dict[str, Any]:
    """Return settings for which a greedy model generates these tokens in this order, each once.

    The biases fall from token to token, and the penalty pushes generated tokens below all others.
    Whole words are not possible: the model prefers some of them.
    """
    assert STEP * len(tokens) < PENALTY
    bias = {}
    for place, token in enumerate(tokens):
        (id_,) = tokenizer.encode(token)
        # The end of a turn is in the prompt: the penalty applies to that token already.
        bias[str(id_)] = 50 - STEP * place + (PENALTY if token == IM_END else 0)
    return {"logit_bias": bias, "presence_penalty": PENALTY}
