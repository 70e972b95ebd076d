"""Requests whose answers are bound by a grammar, played through an engine in one process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prompt import build_prompt
from mlx_worker.engine.structured.compiler import ConstraintCompiler
from mlx_worker.wire.messages import RequestFailed
from mlx_worker.wire.output import (
    Done,
    Notice,
    ReasoningText,
    Span,
    StepOutput,
    TokenLogprobs,
    ToolCall,
    visible_text,
)
from mlx_worker.wire.request import AnswerConstraint, ChatRequest, JsonSchemaConstraint, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HELLO = [{"role": "user", "content": "Hello"}]


@dataclass
class Answer:
    """What one request was answered; `calls` and `reasoning` by themselves."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    finish: str = ""
    loop_period: int = 0
    failed: RequestFailed | None = None

    def take(self, spans: Sequence[Span]) -> None:
        for span in spans:
            match span:
                case ReasoningText():
                    self.reasoning += span.text
                case ToolCall():
                    self.calls.append(span)
                case Notice():
                    self.notices.append(span.problem)
                case _:
                    self.text += visible_text(span)


class EngineHarness:
    """One model, and engines of it that have seen nothing yet."""

    def __init__(self, folder: Path, rows: int = 16) -> None:
        self.model, self.tokenizer, _ = read_model(folder)
        self.constraints = ConstraintCompiler(self.tokenizer)
        self.rows = rows

    def engine(self) -> Engine:
        """An engine that has seen nothing yet."""
        return Engine(self.model, self.tokenizer, context_length=4096, max_concurrency=self.rows)

    def play(
        self, *requests: ChatRequest, replay: Sequence[int] = (), engine: Engine | None = None
    ) -> list[Answer]:
        """All of them side by side in this engine, or in a new one."""
        engine = engine or self.engine()
        answers = [Answer() for _ in requests]
        said: list[Any] = []
        for id_, request in enumerate(requests):
            prompt = build_prompt(self.tokenizer, request)
            bound = self.constraints.compile(request, prompt)
            said.append(engine.admit(id_, request, prompt, replay=list(replay), constraint=bound))
        while True:
            for message in said:
                _hear(answers, message)
            if not engine.active:
                return answers
            said = list(engine.step())


def _hear(answers: list[Answer], message: Any) -> None:
    match message:
        case StepOutput():
            for row in message.rows:
                answers[row.id].tokens += row.tokens
                answers[row.id].logprobs += row.logprobs
                answers[row.id].take(row.spans)
        case Done():
            answers[message.id].take(message.spans)
            answers[message.id].finish = message.finish
            answers[message.id].loop_period = message.loop_period
        case RequestFailed():
            answers[message.id].failed = message


def asked(
    constraint: AnswerConstraint | None = None,
    *,
    seed: int = 1,
    temperature: float = 0.0,
    frequency_penalty: float = 0.0,
    max_tokens: int = 300,
    bias: dict[int, float] | None = None,
    **fields: Any,
) -> ChatRequest:
    sampling = Sampling(
        seed=seed,
        temperature=temperature,
        frequency_penalty=frequency_penalty,
        logit_bias=bias or {},
    )
    return ChatRequest(HELLO, sampling, max_tokens, constraint=constraint, **fields)


def schema(value: dict[str, Any]) -> JsonSchemaConstraint:
    return JsonSchemaConstraint(json.dumps(value), "response_format")
