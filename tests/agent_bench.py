"""A tiny model of a template's family, and requests played through its engines."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.api.dialects.model_terms import ModelSettings, ModelTerms, RequestCapacity
from mlx_worker.api.parsing.body_kinds import GenerationBody, parse
from mlx_worker.api.parsing.model_table import ModelTable
from mlx_worker.config.schema import Defaults
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.history.recall import Recall
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.templates.chat_text import chat_text
from mlx_worker.engine.templates.tool_offer import ToolOffers
from mlx_worker.wire.framing import encode, frames_to_child
from mlx_worker.wire.messages import Generate, Started
from mlx_worker.wire.output import Done, StepOutput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mlx_worker.api.dialects import base
    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.wire.output import Span
    from mlx_worker.wire.request import ChatRequest
    from tests.agent_templates import AgentFamily

TERMS: Final = ModelTerms(
    Defaults(), RequestCapacity("m", 8), ModelSettings(None, {}, (), {}, None)
)
TABLE: Final = ModelTable({"m": TERMS}, TERMS, ["m"], takes_any_name=True)
CONTEXT: Final = 8192


class Script:
    """A grammar that allows one answer, token by token."""

    complete = False
    problem = ""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = iter(tokens)

    def replay(self, tokens: Sequence[int]) -> None:
        """Continue behind tokens that were said."""
        for _ in tokens:
            next(self._tokens)

    def next_after(self, _token: int, width: int) -> bytes:
        """Allow the next token alone; after the last one anything."""
        token = next(self._tokens, None)
        if token is None:
            return b"\xc8" * width
        return b"\0" * token + b"\xc8" + b"\0" * (width - token - 1)


@dataclass
class Outcome:
    """What came of one generation; `logprobs` are those of its tokens."""

    started: Started | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    done: Done | None = None


@dataclass(frozen=True)
class Job:
    """A request on its way into an engine; the answer is cancelled after `leaves` tokens."""

    request: ChatRequest
    prompt: Prompt
    script: Sequence[int] | None = None
    leaves: int | None = None


def run(engine: Engine, jobs: Sequence[Job], *, in_session: bool = False) -> list[Outcome]:
    """Play requests side by side to their ends."""
    outcomes = [Outcome() for _ in jobs]
    heard: list[Any] = []
    for id_, job in enumerate(jobs):
        script: Any = None if job.script is None else Script(job.script)
        heard.append(
            engine.admit(id_, job.request, job.prompt, constraint=script, in_session=in_session)
        )
    while True:
        for message in heard:
            _hear(outcomes, message)
        if not engine.active:
            return outcomes
        heard = []
        for id_, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
            if job.leaves is not None and len(outcome.tokens) >= job.leaves and not outcome.done:
                heard.append(engine.cancel(id_))
        heard += engine.step()


def _hear(outcomes: Sequence[Outcome], message: Any) -> None:
    match message:
        case Started():
            outcomes[message.id].started = message
        case StepOutput():
            for row in message.rows:
                outcomes[row.id].tokens += row.tokens
                outcomes[row.id].spans += row.spans
                outcomes[row.id].logprobs += [each.chosen.logprob for each in row.logprobs]
        case Done():
            outcomes[message.id].spans += message.spans
            outcomes[message.id].done = message
        case _:
            pass


class Bench:
    """One family's model, with an engine that remembers and one that keeps nothing."""

    in_session = False
    """True if the requests are those of sessions."""

    grain = 1
    """Tokens of a piece of KV that serves a prompt which parts from the one before."""

    def __init__(self, family: AgentFamily, folder: Path, *, remembers: bool = True) -> None:
        self.family = family
        self.model, self.tokenizer, _ = read_model(family.make(folder))
        self.offers = ToolOffers(self.tokenizer, family.tools)
        self.markers = Markers(self.tokenizer)
        self.remembers = remembers
        self.engine = self.fresh_engine(1 << 30)
        self.forgetful = self.fresh_engine(0)
        self._ids = itertools.count(1)

    def fresh_engine(self, cache_bytes: int) -> Engine:
        return Engine(
            self.model,
            self.tokenizer,
            context_length=CONTEXT,
            max_concurrency=16,
            cache_bytes=cache_bytes,
        )

    def parsed(self, dialect: str, body: bytes) -> tuple[base.GenerationRequest, ChatRequest]:
        """Return a body as the front has it, and as a child gets it over the pipe."""
        request = parse(GenerationBody(dialect), body, TABLE)  # type: ignore[arg-type]
        (chat,) = request.split_choices()
        (message,) = frames_to_child().feed(encode(Generate(next(self._ids), chat)))
        assert isinstance(message, Generate)
        return request, message.request

    def prompt(self, request: ChatRequest, given: Any = None) -> tuple[ChatRequest, Prompt]:
        offer = self.offers.adapt(request)
        recall = Recall(self.engine.history, offer.request.tools, given) if self.remembers else None
        return offer.request, offer.prompt(self.tokenizer, None, recall)

    def text(self, request: ChatRequest) -> str:
        """Return the text that the template alone makes."""
        shown = self.offers.adapt(request).shown
        kwargs = {"tools": shown.tools} if shown.tools else {}
        return chat_text(
            self.tokenizer,
            shown.messages,
            shown.template_kwargs | kwargs,
            add_generation_prompt=True,
        )

    def bytes_of(self, tokens: Iterable[int]) -> list[bytes]:
        return [self.markers.bytes_of(token) for token in tokens]
