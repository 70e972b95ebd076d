"""What mlx_lm itself says to the same prompt, alone: the one measure of the engine.

Greedy or sampled, the loop is `mlx_lm.stream_generate`: no batch, no prefix, no engine. A sampled
request brings the engine's sampler, whose draws are a function of (seed, position) alone, and
mlx_lm's own logits processors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx_lm

from mlx_worker.engine.loading import read_model
from mlx_worker.engine.sampling import RowSampler, make_processors
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.fidelity.ties import ROUNDS_BY_SHAPE, tokens_near

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GREEDY = Sampling(seed=0)


@dataclass(frozen=True)
class Ask:
    """One request: what the engine is given, and all that its answer may depend on."""

    prompt: tuple[int, ...]
    system_prefix: int = 0
    max_tokens: int = 16
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    segment_ends: tuple[int, ...] = ()
    logprobs: int | None = None

    @property
    def request(self) -> ChatRequest:
        return ChatRequest(
            messages=[],  # rendered already
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            stop=list(self.stop),
            logprobs=self.logprobs,
        )


@dataclass(frozen=True)
class Answer:
    """All tokens of an answer, its text and how close each choice was."""

    tokens: list[int]
    text: str
    finish: str
    logprobs: list[float]
    gaps: list[float]
    """How far the likeliest token is ahead of the next: what rounding would have to bridge."""


@dataclass
class Model:
    """One loaded model with the answers that it gave alone."""

    name: str
    model: Any
    tokenizer: Any
    answers: dict[tuple[Any, ...], Answer] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Model:
        model, tokenizer, _ = read_model(folder)
        return cls(folder.name, model, tokenizer)

    def answer(self, ask: Ask) -> Answer:
        """The reference, stop strings aside; asked once."""
        key = (ask.prompt, ask.max_tokens, repr(ask.sampling))
        if key not in self.answers:
            self.answers[key] = self._alone(ask)
        return self.answers[key]

    def text(self, ask: Ask) -> tuple[str, str]:
        """The text that a client sees, and why it ends."""
        answer = self.answer(ask)
        return cut(answer.text, ask.stop) or (answer.text, answer.finish)

    def is_tie(self, ask: Ask, at: int, token: int) -> bool:
        """Return True if rounding may have put this token at a place of the answer."""
        if not ROUNDS_BY_SHAPE:
            return False
        return token in tokens_near(self._said(ask)[at].logprobs, ask.sampling, at)

    def is_tied_text(self, ask: Ask, text: str) -> bool:
        """Return True if a text begins as the answer does, up to a tie, and goes on with the other.

        Stop strings aside: what is cut is no longer than the text.
        """
        if not ROUNDS_BY_SHAPE:
            return False
        answer = self.answer(ask)
        tokens = answer.tokens
        trimmed = len(self.tokenizer.decode(tokens)) - len(answer.text)  # a space in front

        def begins_with(part: list[int]) -> bool:
            return text.startswith(self.tokenizer.decode(part)[trimmed:])

        at = next((at for at in range(len(tokens)) if not begins_with(tokens[: at + 1])), None)
        if at is None:
            return False
        near = tokens_near(self._said(ask)[at].logprobs, ask.sampling, at) - {tokens[at]}
        return any(begins_with([*tokens[:at], other]) for other in near)

    def _said(self, ask: Ask) -> list[Any]:
        return list(
            mlx_lm.stream_generate(
                self.model,
                self.tokenizer,
                list(ask.prompt),
                max_tokens=ask.max_tokens,
                sampler=RowSampler(ask.sampling, len(self.tokenizer)),
                logits_processors=make_processors(ask.sampling),
            )
        )

    def _alone(self, ask: Ask) -> Answer:
        said = self._said(ask)
        logprobs = mx.stack([piece.logprobs for piece in said])
        tokens = [piece.token for piece in said]
        chosen = mx.take_along_axis(logprobs, mx.array(tokens)[:, None], axis=-1)
        best = mx.sort(logprobs, axis=-1)
        gaps: list[float] = (best[:, -1] - best[:, -2]).tolist()  # type: ignore[assignment]
        return Answer(
            tokens,
            "".join(piece.text for piece in said),
            said[-1].finish_reason,
            chosen[:, 0].tolist(),  # type: ignore[arg-type]
            gaps,
        )


def cut(text: str, stop: Sequence[str]) -> tuple[str, str] | None:
    """The text before the stop string that is complete first; None where none occurs."""
    found = [(text.index(word) + len(word), word) for word in stop if word in text]
    if not found:
        return None
    end, word = min(found)
    return text[: end - len(word)], "stop"
