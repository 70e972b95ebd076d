"""The cases of the exactness table: one model in one number format, computed in four ways.

The reference is `mlx_lm.stream_generate`, alone. A sampled answer draws with the engine's own
counter-based sampler, so that the same log-probabilities give the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import mlx_lm
from mlx import nn

from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prompt import build_prompt
from mlx_worker.engine.sampling import RowSampler, key_seed
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.fidelity.reference import Ask, Model
from tests.fidelity.scenarios import Row, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

SYSTEM: Final = "You are a careful assistant. Answer in plain words, and as briefly as you can."
QUESTIONS: Final = (
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Name three primary colours.",
    "Explain gravity to a child in two sentences.",
    "Write a Python function that adds two numbers.",
    "Why is the sky blue?",
    "How do you boil an egg?",
    "Tell me a joke about computers, and then explain why people laugh at the joke.",
    "What comes after Tuesday?",
    "Summarize: The cat sat on the mat and slept all day in the sun.",
    "Which planet is known as the red planet?",
    "Finish the sentence: Once upon a time",
    "Give two synonyms of 'happy'.",
    "Who wrote Hamlet, and when?",
    "Translate 'good morning' into Spanish.",
    "What is the largest ocean?",
)
"""The first half is answered greedily, the second half by sampling."""
TEMPERATURE: Final = 0.8


def _cast(kind: Any) -> Callable[[Any], None]:
    return lambda model: model.set_dtype(kind)


def _quantized(bits: int) -> Callable[[Any], None]:
    def quantize(model: Any) -> None:
        model.set_dtype(mx.float32)
        nn.quantize(model, group_size=64, bits=bits)

    return quantize


FORMATS: Final[Mapping[str, Callable[[Any], None]]] = {
    "float32": _cast(mx.float32),
    "bfloat16": _cast(mx.bfloat16),
    "float16": _cast(mx.float16),
    "8-bit": _quantized(8),
    "4-bit": _quantized(4),
}
"""Quantized in groups of 64, as mlx_lm does; float32 between the matrices, because mlx's quantized
product takes nine times as long in bfloat16 on a CPU."""


@dataclass(frozen=True)
class Difference:
    """The first token that is another, and by how much the reference preferred its own.

    The margin is between the two tokens' log-probabilities; for a sampled token between the two
    scores whose larger one wins the draw (log-probability over temperature, plus noise).
    """

    token: int
    margin: float


@dataclass(frozen=True)
class Cell:
    """One model, BLAS, number format, kind of draw and way of computing."""

    model: str
    blas: str
    format: str
    drawn: str
    way: str
    answers: int
    equal: int
    moved: float
    """The largest change of a token's log-probability, up to the first different token."""
    closest: float
    """The narrowest margin of all tokens of the reference: what rounding would have to bridge."""
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """What mlx_lm says alone: tokens, and all log-probabilities at each of them."""

    ask: Ask
    tokens: list[int]
    logprobs: list[mx.array]

    def scores(self, place: int) -> mx.array:
        """What decided the draw at this place, for every token."""
        logprobs = self.logprobs[place].astype(mx.float32)
        sampling = self.ask.sampling
        if sampling.temperature:
            key = key_seed(sampling.seed, place)
            words = mx.array([key >> 32, key & 0xFFFFFFFF], dtype=mx.uint32)
            logprobs = logprobs / sampling.temperature + mx.random.gumbel(logprobs.shape, key=words)
        return logprobs

    @property
    def closest(self) -> float:
        """The narrowest margin between a token and its best rival."""
        best = [mx.topk(self.scores(place), 2) for place in range(len(self.tokens))]
        return min(item(mx.max(pair) - mx.min(pair)) for pair in best)

    def compare(self, row: Row, first: int) -> tuple[Difference | None, float]:
        """Where a row parts from this, and how far its log-probabilities moved before.

        The row computed its tokens from place `first` on.
        """
        moved = 0.0
        for place, (theirs, ours) in enumerate(zip(self.tokens, row.tokens, strict=False)):
            if theirs != ours:
                scores = self.scores(place)
                return Difference(place, item(scores[theirs] - scores[ours])), moved
            if 0 <= place - first < len(row.logprobs):
                own = item(self.logprobs[place][theirs])
                moved = max(moved, abs(own - row.logprobs[place - first]))
        assert len(self.tokens) == len(row.tokens)
        assert row.logprobs
        return None, moved


def item(scalar: mx.array) -> float:
    """Read one number back."""
    value: float = scalar.item()  # type: ignore[assignment]  # no complex number is here
    return value


def _alone(model: Model, references: list[Reference]) -> list[Row]:
    rows = []
    for reference in references:
        stage = Stage(model, concurrency=1)
        rows.append(stage.admit(reference.ask))
        stage.finish()
    return rows


def _in_a_batch(model: Model, references: list[Reference]) -> list[Row]:
    """All together, each joining two steps after the one before."""
    stage = Stage(model, concurrency=len(references))
    for reference in references:
        stage.admit(reference.ask)
        stage.step()
        stage.step()
    stage.finish()
    return stage.rows


def _on_a_cached_prefix(model: Model, references: list[Reference]) -> list[Row]:
    """One at a time, behind their system prompt, which was warmed."""
    stage = Stage(model, concurrency=1)
    ask = references[0].ask
    stage.warm(ask.prompt[: ask.system_prefix])
    stage.finish()
    for reference in references:
        row = stage.admit(reference.ask)
        stage.finish()
        assert row.started is not None
        assert row.started.cached_tokens >= reference.ask.system_prefix > 0
    return stage.rows


def _resumed(model: Model, references: list[Reference]) -> list[Row]:
    """One at a time, by a new engine that has the first half of the tokens."""
    rows = []
    for reference in references:
        stage = Stage(model, concurrency=1)
        rows.append(stage.resume(reference.ask, reference.tokens[: _half(reference)]))
        stage.finish()
    return rows


def _half(reference: Reference) -> int:
    return len(reference.tokens) // 2


WAYS: Final[Mapping[str, Callable[[Model, list[Reference]], list[Row]]]] = {
    "alone": _alone,
    "in a batch": _in_a_batch,
    "on a cached prefix": _on_a_cached_prefix,
    "resumed": _resumed,
}


def measure(
    folder: Path,
    number_format: str,
    blas: str,
    *,
    prompts: int,
    tokens: int,
    ways: Iterable[str] = (),
) -> Iterator[Cell]:
    """Compute the cells of one model in one number format, one after the other; `ways`: which."""
    weights, tokenizer, _ = read_model(folder)
    FORMATS[number_format](weights)
    mx.eval(weights.parameters())
    model = Model(folder.name, weights, tokenizer)
    references = [
        _reference(model, _ask(tokenizer, question, temperature, tokens))
        for greedy, sampled in _pairs(prompts)
        for question, temperature in ((greedy, 0.0), (sampled, TEMPERATURE))
    ]
    for way in ways or WAYS:
        rows = WAYS[way](model, references)
        for drawn in ("greedy", "sampled"):
            pairs = [
                (reference, row)
                for reference, row in zip(references, rows, strict=True)
                if bool(reference.ask.sampling.temperature) == (drawn == "sampled")
            ]
            compared = [
                reference.compare(row, _half(reference) if way == "resumed" else 0)
                for reference, row in pairs
            ]
            differences = [difference for difference, _ in compared if difference is not None]
            yield Cell(
                folder.name,
                blas,
                number_format,
                drawn,
                way,
                answers=len(pairs),
                equal=len(pairs) - len(differences),
                moved=max(moved for _, moved in compared),
                closest=min(reference.closest for reference, _ in pairs),
                differences=differences,
            )


def _pairs(count: int) -> list[tuple[str, str]]:
    """Questions to be answered greedily and by sampling."""
    half = len(QUESTIONS) // 2
    if count > half:
        raise ValueError(f"there are {half} prompts of each kind, not {count}")
    return list(zip(QUESTIONS[:half], QUESTIONS[half:], strict=True))[:count]


def _ask(tokenizer: Any, question: str, temperature: float, tokens: int) -> Ask:
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": question},
    ]
    sampling = Sampling(seed=len(question), temperature=temperature)
    prompt = build_prompt(tokenizer, ChatRequest(messages, sampling))
    return Ask(
        tuple(prompt.tokens),
        prompt.system_prefix,
        tokens,
        sampling,
        (),
        prompt.segment_ends,
        logprobs=0,
    )


def _reference(model: Model, ask: Ask) -> Reference:
    said = list(
        mlx_lm.stream_generate(
            model.model,
            model.tokenizer,
            list(ask.prompt),
            max_tokens=ask.max_tokens,
            sampler=RowSampler(ask.sampling, len(model.tokenizer)),
        )
    )
    return Reference(ask, [entry.token for entry in said], [entry.logprobs for entry in said])
