"""Requests to sequences: the text, the sampler and the limits of each row.

[child]
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.engine.checks.request import RequestChecks
from mlx_worker.engine.limits.loop_guard import LoopGuard
from mlx_worker.engine.limits.thinking_budget import ThinkingBudget
from mlx_worker.engine.limits.thinking_end import ThinkingEnd, thinking_end
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


NO_MARKERS: Final = (
    "max_reasoning_tokens: has no effect, because the format of this model's answers does not mark"
    " reasoning"
)


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
        whole = replace(prompt, tokens=prompt.tokens + replay)
        ends = ending_tokens(request.ends, self._tokenizer.eos_token_ids)
        is_limited = request.thinking_budget is not None and request.prompt is None
        budget = self._budget(request, prompt, ends) if is_limited else None
        if budget is not None:
            budget.catch_up(whole.tokens)
        return Sequence(
            id_,
            whole,
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
                budget=budget,
                scorer=scorer,
            ),
            scorer=scorer,
            constraint=constraint,
            loop_guard=None if request.loop_rule is None else LoopGuard(request.loop_rule),
            notices=[NO_MARKERS] if is_limited and budget is None else [],
            ends=ends,
        )

    def _budget(
        self, request: ChatRequest, prompt: Prompt, ends: frozenset[int]
    ) -> ThinkingBudget | None:
        """Return the budget of reasoning of an answer; None where reasoning is not marked."""
        if (end := self._thinking_end) is None:
            return None
        # The end of reasoning may be one that the answer must not have too early.
        not_before = 0 if ends.isdisjoint(end.tokens) else request.ends.min_tokens
        return ThinkingBudget(request, prompt, self._markers, end, not_before=not_before)

    @cached_property
    def _thinking_end(self) -> ThinkingEnd | None:
        return thinking_end(self._tokenizer, self._markers)

    def processors(self, request: ChatRequest, prompt: Prompt) -> list[Any]:
        """Return mlx_lm's logits processors of a request: penalties, biases, the least length."""
        return [
            *make_processors(request.sampling),
            *length_processors(request.ends, self._tokenizer.eos_token_ids, len(prompt.tokens)),
        ]
