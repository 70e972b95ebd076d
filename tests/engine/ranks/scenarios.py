"""What an engine is asked, the same for one rank and for several, and what it said, as JSON."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from mlx_worker.engine.prompt import render, system_prefix_tokens
from mlx_worker.wire.framing import encode
from mlx_worker.wire.messages import Started
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.request import ChatRequest, EndConditions, PromptScoring, Sampling
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from mlx_worker.engine.engine import Engine
    from mlx_worker.engine.ranks.leading import OperationLog

CONCURRENCY = 8

Said = dict[int, list[int | str]]
"""The tokens of each id, and at last how it ended."""

COMPANY = 560
"""Requests; about a tenth of them are cancelled."""

STEPS = 200
"""Tokens of each answer whose steps are measured."""

SYSTEM = "You are an old river. " + " ".join(WORDS[:60])


def run_all(engine: Engine, tokenizer: Any) -> dict[str, Any]:
    """Run every scenario on the same engine, one after the other."""
    return {
        scenario.__name__: scenario(engine, tokenizer)
        for scenario in (alone, crowd, prefixes, warmed, cancelled, sampled, scored, cleared)
    }


def company(engine: Engine, tokenizer: Any) -> Said:
    """Many requests in random company: prefixes are shared, some are cancelled.

    What is asked does not depend on the ranks, so that each answer can be compared.
    """
    draw = random.Random(7)
    said: Said = {}
    for id_ in range(COMPANY):
        system = " ".join(WORDS[: 20 * draw.randrange(4)]) or None
        start, length = draw.randrange(100), draw.choice([1, 2, 3, 30, 70, 150])
        text = " ".join(WORDS[(start + i) % len(WORDS)] for i in range(length))
        request = chat(f"{id_} {text}", system=system, max_tokens=draw.randint(1, 40))
        admit(engine, tokenizer, id_, request)
        for _ in range(draw.randrange(6)):
            collect(said, engine.step())
        if draw.random() < 0.1:
            engine.cancel(id_ - draw.randrange(4))
        if draw.random() < 0.02:
            engine.clear_cache()
    return drain(engine, said)


def alone(engine: Engine, tokenizer: Any) -> Any:
    admit(engine, tokenizer, 1, chat("Hello", max_tokens=40))
    return drain(engine)


def crowd(engine: Engine, tokenizer: Any) -> Any:
    """More rows than decode at once, of different lengths, which join and leave."""
    said: Said = {}
    for id_ in range(12):
        text = " ".join(WORDS[id_ : id_ + 3 + 40 * (id_ % 3)])
        admit(engine, tokenizer, id_, chat(text, max_tokens=6 + 2 * id_))
        collect(said, engine.step())
    return drain(engine, said)


def prefixes(engine: Engine, tokenizer: Any) -> Any:
    """One system prompt, which later chats find in the prompt cache, and a turn that goes on."""
    cached = []
    said: Said = {}
    for id_ in range(4):
        request = chat(f"Tell of {WORDS[id_]}", system=SYSTEM, max_tokens=12)
        cached.append(admit(engine, tokenizer, id_, request))
        drain(engine, said)
    return [cached, said]


def warmed(engine: Engine, tokenizer: Any) -> Any:
    system = "You are a young mountain. " + " ".join(WORDS[60:120])
    tokens = system_prefix_tokens(tokenizer, system, {})
    message = engine.admit_warm(50, tokens, system)
    while engine.active:
        engine.step()
    cached = admit(engine, tokenizer, 51, chat("Hello", system=system, max_tokens=10))
    return [message is None, cached, drain(engine)]


def cancelled(engine: Engine, tokenizer: Any) -> Any:
    """One row is cancelled while it decodes, one while it reads, and the others go on."""
    said: Said = {}
    for id_ in range(4):
        admit(engine, tokenizer, id_, chat(f"{WORDS[id_]} again", max_tokens=24))
    for _ in range(12):
        collect(said, engine.step())
    engine.cancel(1)
    admit(engine, tokenizer, 9, chat(" ".join(WORDS) * 4, max_tokens=5))
    collect(said, engine.step())
    engine.cancel(9)
    return drain(engine, said)


def sampled(engine: Engine, tokenizer: Any) -> Any:
    settings: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "frequency_penalty": 0.5}
    for id_ in range(3):
        admit(engine, tokenizer, id_, chat("Hello", max_tokens=16, seed=id_, **settings))
    return drain(engine)


def scored(engine: Engine, tokenizer: Any) -> Any:
    """A prompt whose tokens get log-probabilities, beside one whose do not."""
    scoring = PromptScoring(echoed=0)
    admit(engine, tokenizer, 1, chat(" ".join(WORDS[:90]), max_tokens=8, prompt_scoring=scoring))
    admit(engine, tokenizer, 2, chat(" ".join(WORDS[9:70]), max_tokens=8))
    return drain(engine)


def cleared(engine: Engine, tokenizer: Any) -> Any:
    engine.clear_cache()
    cached = admit(engine, tokenizer, 1, chat("Hello", max_tokens=12))
    return [cached, drain(engine)]


def costs(engine: Engine, tokenizer: Any) -> list[tuple[int, float, float]]:
    """What telling the other ranks of a step takes: rows, seconds of CPU, bytes."""
    log: OperationLog = engine._batch._log
    send = log._send
    spent: list[float] = []
    sizes: list[int] = []

    def timed(operation: Any) -> None:
        begun = time.thread_time()
        send(operation)
        spent.append(time.thread_time() - begun)
        sizes.append(len(encode(operation)))

    log._send = timed  # type: ignore[method-assign]
    found = []
    for rows in (1, CONCURRENCY):
        for id_ in range(rows):
            ends = EndConditions(ignore_eos=True)
            admit(engine, tokenizer, id_, chat(f"{id_}", max_tokens=STEPS, ends=ends))
        while engine.has_prefill:
            engine.step()
        spent.clear()
        sizes.clear()
        steps = 0
        while engine.active == rows:
            engine.step()
            steps += 1
        found.append((rows, sum(spent) / steps, sum(sizes) / steps))
        drain(engine)
    return found


# --- what scenarios are made of ---


def chat(text: str, *, system: str | None = None, **request: Any) -> ChatRequest:
    sampling = {k: request.pop(k) for k in list(request) if k in Sampling.__struct_fields__}
    messages = [{"role": "system", "content": system}] if system else []
    return ChatRequest(
        messages=[*messages, {"role": "user", "content": text}],
        sampling=Sampling(**{"seed": 7, **sampling}),
        **request,
    )


def admit(engine: Engine, tokenizer: Any, id_: int, request: ChatRequest) -> int:
    """Return how many tokens of the prompt were cached; -1 where the request waits."""
    started = engine.admit(id_, request, render(tokenizer, request.messages, {}))
    return started.cached_tokens if isinstance(started, Started) else -1


def drain(engine: Engine, said: Said | None = None) -> Said:
    said = {} if said is None else said
    while engine.active:
        collect(said, engine.step())
    return said


def collect(said: Said, messages: list[Any]) -> None:
    for message in messages:
        if isinstance(message, StepOutput):
            for row in message.rows:
                said.setdefault(row.id, []).extend(row.tokens)
        elif isinstance(message, Done):
            said.setdefault(message.id, []).append(message.finish)
