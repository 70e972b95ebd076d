"""Checks of a request against the model, made before any work.

[child]
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlx_worker.engine.batch_support import logit_count
from mlx_worker.engine.output.end_tokens import check_stop_tokens
from mlx_worker.engine.output.prompt_scores import check_scoring
from mlx_worker.errors import ContextLengthExceeded, InvalidRequest

if TYPE_CHECKING:
    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.wire.request import ChatRequest


class RequestChecks:
    """Check requests against one model. `vocabulary` and `context_length` are in tokens."""

    def __init__(self, model: Any, vocabulary: int, context_length: int) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._context_length = context_length

    def answer_limit(self, request: ChatRequest, prompt: Prompt, room: int | None) -> int:
        """Return how many tokens the answer may have, after all checks.

        `room` is what another process allowed the answer before it died; None: none did. Raises
        ContextLengthExceeded or InvalidRequest, with the numbers.
        """
        limit = self._context_left(request, prompt) if room is None else room
        self._check_bias(request.sampling.logit_bias)
        check_stop_tokens(request.ends, self._vocabulary)
        check_scoring(request.prompt_scoring, len(prompt.tokens))
        return limit

    def check_warm(self, tokens: int) -> None:
        """Raise ContextLengthExceeded for a system prompt of more tokens than the context has."""
        if tokens >= self._context_length:
            raise ContextLengthExceeded.of(tokens, self._context_length, "system_prompt")

    def _context_left(self, request: ChatRequest, prompt: Prompt) -> int:
        """Return the tokens that the request asks for, at most what the context leaves."""
        asked = request.max_tokens
        least = 1 if request.prompt is None else 0  # a prompt alone may be scored
        if asked is not None and asked < least:
            raise InvalidRequest(f"max_tokens: {asked} is less than {least}", param="max_tokens")
        used = len(prompt.tokens)
        left = self._context_length - used
        if left < (asked != 0):
            field = "messages" if request.prompt is None else "prompt"
            raise ContextLengthExceeded.of(used, self._context_length, field)
        return left if asked is None else min(asked, left)

    def _check_bias(self, bias: dict[int, float]) -> None:
        for token in bias:
            known = self._vocabulary if token < self._vocabulary else self._logits
            if not 0 <= token < known:
                raise InvalidRequest(
                    f"logit_bias: token id {token} is outside the vocabulary of {known}",
                    param="logit_bias",
                )

    @cached_property
    def _logits(self) -> int:
        """Return how many tokens the model has logits for, padding of the vocabulary included."""
        return logit_count(self._model)
