"""Requests to sequences: the text, the sampler and the limits of each row.

[child]
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlx_worker.engine.checks.request import RequestChecks
from mlx_worker.engine.output.end_tokens import ending_tokens, length_processors
from mlx_worker.engine.output.prompt_scores import PromptScorer
from mlx_worker.engine.output.text_stream import TextStream
from mlx_worker.engine.sampling import RowSampler, make_processors
from mlx_worker.engine.sequence import Sequence

if TYPE_CHECKING:
    from mlx_worker.engine.output.markers import Markers
    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.engine.structured.constraint import Constraint
    from mlx_worker.wire.request import ChatRequest


class SequenceFactory:
    """Make the sequences of one model's requests, after all checks."""

    def __init__(self, model: Any, tokenizer: Any, markers: Markers, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = len(tokenizer)
        self._markers = markers
        self.checks = RequestChecks(model, self._vocabulary, context_length)

    def make(
        self,
        id_: int,
        request: ChatRequest,
        prompt: Prompt,
        replay: list[int],
        constraint: Constraint | None,
        room: int | None,
    ) -> Sequence:
        """Return the row of a request. Raises ContextLengthExceeded or InvalidRequest."""
        limit = self.checks.answer_limit(request, prompt, room)
        scoring = request.prompt_scoring
        scorer = None if scoring is None else PromptScorer(self._markers, scoring, prompt)
        return Sequence(
            id_,
            replace(prompt, tokens=prompt.tokens + replay),
            TextStream(self._markers, request, prompt.state, prompt.tokens),
            max_tokens=limit - len(replay),
            bounded=request.max_tokens == limit,
            fills_context=request.max_tokens != limit,
            logprobs=request.logprobs,
            replayed=len(replay),
            produced=len(replay),
            sampled=[*replay],
            sampler=RowSampler(
                request.sampling,
                self._vocabulary,
                len(replay),
                reports=request.logprobs is not None,
                constraint=constraint,
                scorer=scorer,
            ),
            scorer=scorer,
            constraint=constraint,
            ends=ending_tokens(request.ends, self._tokenizer.eos_token_ids),
        )

    def processors(self, request: ChatRequest, prompt: Prompt) -> list[Any]:
        """Return mlx_lm's logits processors of a request: penalties, biases, the least length."""
        return [
            *make_processors(request.sampling),
            *length_processors(request.ends, self._tokenizer.eos_token_ids, len(prompt.tokens)),
        ]
