"""Conversations of agents by random, through dialects, templates and engines, and what was reused.

A trace is what an agent does: a user's message, some turns with calls and their results, an answer,
and so on. The model's words are made up and forced upon a tiny model token by token, in spellings
and tokens that no template would choose. Each answer goes through the dialect's writer to a client,
which sends it back as clients do.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.api.dialects import base
from mlx_worker.api.dialects.model_terms import ModelSettings, ModelTerms, RequestCapacity
from mlx_worker.api.dialects.registry import DIALECTS
from mlx_worker.api.parsing.body_kinds import GenerationBody, parse
from mlx_worker.api.parsing.model_table import ModelTable
from mlx_worker.config.schema import Defaults
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.history.recall import Recall
from mlx_worker.engine.kv.prefix import common_prefix
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.prompt import build_prompt
from mlx_worker.engine.templates.chat_text import chat_text
from mlx_worker.engine.templates.tool_offer import ToolOffers
from mlx_worker.supervisor.requests.generation import FinishInfo
from mlx_worker.supervisor.requests.output_buffer import delta_of
from mlx_worker.wire.framing import encode, frames_to_child
from mlx_worker.wire.messages import Generate, Started
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.agent_templates import Said
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.wire.output import Span
    from tests.agent_templates import AgentFamily, Call

DIALECT_NAMES: Final = ("chat", "messages", "responses")
PARAMETERS: Final = {
    "type": "object",
    "properties": {
        "at": {"type": "string"},
        "far": {"type": "integer"},
        "sure": {"type": "boolean"},
        "ways": {"type": "array", "items": {"type": "string"}},
    },
}
NAMES: Final = ("look", "walk")
TERMS: Final = ModelTerms(Defaults(), RequestCapacity("m", 8), ModelSettings(None, {}, ()))
TABLE: Final = ModelTable({"m": TERMS}, TERMS, ["m"], takes_any_name=True)
INFO: Final = base.ResponseInfo("m", 1, "fp_1", reasoning_summaries="always")
BEYOND_ASCII: Final = ("東京", "Grüße", "🙂", "naïve—", "Ω≈ç", "👩‍👩‍👧")
CONTEXT: Final = 8192
COMPARED: Final = 12
"""Tokens of each answer that are compared with those of an engine without a cache."""


# --- words --------------------------------------------------------------------------------


def words(random: Random, most: int = 8) -> str:
    """Return a few words, some of them beyond ASCII."""
    chosen = [
        random.choice(BEYOND_ASCII if random.random() < 0.15 else WORDS)
        for _ in range(random.randint(1, most))
    ]
    return " ".join(chosen)


def _call(random: Random) -> Call:
    arguments: dict[str, Any] = {
        "at": words(random, 4) + random.choice(["", '"', "\\", "\n\tx = 1", "</a>", "é\n"]),
        "far": random.choice([0, 7, -3, 12345678901]),
        "sure": random.random() < 0.5,
        "ways": [words(random, 2) for _ in range(random.randint(0, 2))],
    }
    kept = random.sample(sorted(arguments), random.randint(0, len(arguments)))
    return random.choice(NAMES), {name: arguments[name] for name in kept}


def said_by(family: AgentFamily, random: Random, *, calls: bool) -> Said:
    """Return what a model of a family says next."""
    reasoning = words(random, 12) if family.reasons and random.random() < 0.8 else ""
    if not calls:
        return Said(reasoning, words(random, 14) + random.choice(["", ".", "!\n\n- a\n- b"]))
    content = words(random) if random.random() < 0.4 else ""
    several = 1 if random.random() < 0.6 else random.randint(2, 3)
    return Said(reasoning, content, tuple(_call(random) for _ in range(several)))


def sampled(tokenizer: Any, text: str, random: Random) -> list[int]:
    """Return tokens of a text, mostly not those that the tokenizer makes of all of it."""
    tokens: list[int] = []
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    place = 0
    while place < len(text):
        word = next((word for word in added if text.startswith(word, place)), "")
        end = place + len(word) if word else place + random.choice([1, 3, 9, 40])
        if not word:
            nearest = [at for a in added if (at := text.find(a, place, end + len(a) - 1)) > 0]
            end = min([end, len(text), *nearest])
        tokens += tokenizer.encode(text[place:end], add_special_tokens=False)
        place = end
    return tokens


# --- clients ------------------------------------------------------------------------------


@dataclass
class Client:
    """Hold one conversation as a client of a dialect holds it.

    `keeps_reasoning`: the client sends the model's reasoning back. `encodes`: it writes arguments
    in an encoding of its own.
    """

    dialect: str
    system: str
    keeps_reasoning: bool
    encodes: bool
    turns: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """Add a message of the user."""
        self.turns.append({"role": "user", "content": text})

    def body(self, **fields: Any) -> bytes:
        """Return the body of the next request."""
        functions = [{"name": name, "description": f"{name} there"} for name in NAMES]
        body: dict[str, Any]
        match self.dialect:
            case "chat":
                system = {"role": "system", "content": self.system}
                tools: list[Any] = [
                    {"type": "function", "function": function | {"parameters": PARAMETERS}}
                    for function in functions
                ]
                body = {"messages": [system, *self.turns], "tools": tools}
            case "messages":
                tools = [function | {"input_schema": PARAMETERS} for function in functions]
                body = {"system": self.system, "messages": self.turns, "tools": tools}
            case _:
                tools = [
                    {"type": "function", "parameters": PARAMETERS} | function
                    for function in functions
                ]
                body = {"instructions": self.system, "input": self.turns, "tools": tools}
                if limit := fields.pop("max_tokens", None):
                    fields["max_output_tokens"] = limit
        return json.dumps({"temperature": 0, **body, **fields}).encode()

    def receive(self, answer: Any) -> None:
        """Add the model's turn."""
        match self.dialect:
            case "chat":
                message = answer["choices"][0]["message"]
                message.pop("reasoning", None)
                if not self.keeps_reasoning:
                    message.pop("reasoning_content", None)
                calls = message.get("tool_calls", [])
                for call in calls if self.encodes else []:
                    arguments = json.loads(call["function"]["arguments"])
                    call["function"]["arguments"] = json.dumps(arguments, separators=(",", ":"))
                self.calls = [call["id"] for call in calls]
                self.turns.append(message)
            case "messages":
                blocks = [
                    block
                    for block in answer["content"]
                    if self.keeps_reasoning or block["type"] != "thinking"
                ]
                self.calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
                if blocks:
                    self.turns.append({"role": "assistant", "content": blocks})
            case _:
                items = [
                    item
                    for item in answer["output"]
                    if self.keeps_reasoning or item["type"] != "reasoning"
                ]
                self.calls = [item["call_id"] for item in items if item["type"] == "function_call"]
                self.turns += items

    def give_results(self, random: Random) -> None:
        """Add the results of the last turn's calls."""
        results = [(call, words(random, 20)) for call in self.calls]
        match self.dialect:
            case "chat":
                self.turns += [
                    {"role": "tool", "tool_call_id": call, "content": text}
                    for call, text in results
                ]
            case "messages":
                blocks = [
                    {"type": "tool_result", "tool_use_id": call, "content": text}
                    for call, text in results
                ]
                self.turns.append({"role": "user", "content": blocks})
            case _:
                self.turns += [
                    {"type": "function_call_output", "call_id": call, "output": text}
                    for call, text in results
                ]


# --- playing ------------------------------------------------------------------------------


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


def run(engine: Engine, jobs: Sequence[Job]) -> list[Outcome]:
    """Play requests side by side to their ends."""
    outcomes = [Outcome() for _ in jobs]
    heard: list[Any] = []
    for id_, job in enumerate(jobs):
        script: Any = None if job.script is None else Script(job.script)
        heard.append(engine.admit(id_, job.request, job.prompt, constraint=script))
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


@dataclass
class Trace:
    """One agent's conversation on its way."""

    random: Random
    client: Client
    steps: list[bool]
    """For each turn of the model: does it call tools?"""
    at: int = 0
    before: tuple[str, Prompt, Outcome, Said, bool] | None = None

    @property
    def is_over(self) -> bool:
        return self.at == len(self.steps)


def make_trace(family: AgentFamily, seed: int) -> Trace:
    """Return the beginning of a trace."""
    random = Random(f"{family.name} {seed}")
    client = Client(
        DIALECT_NAMES[seed % len(DIALECT_NAMES)],
        f"You are an old river. {words(random)}",
        keeps_reasoning=random.random() < 0.8,
        encodes=random.random() < 0.5,
    )
    steps: list[bool] = []
    for _ in range(random.randint(1, 3)):
        steps += [True] * random.randint(0, 2) + [False]
    return Trace(random, client, steps)


@dataclass
class Tally:
    """Count tokens after the first turn: of prompts, of the turns before, and of cached ones."""

    traces: int = 0
    turns: int = 0
    prompt: int = 0
    resident: int = 0
    cached: int = 0
    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def shares(self) -> str:
        """Return the cached shares of the prompts, and of the turns before."""
        prompt, turn = (self.cached / max(1, part) for part in (self.prompt, self.resident))
        return f"{prompt:.1%} | {turn:.1%}"


def play(bench: Bench, seeds: Iterable[int], *, fresh: bool = True, width: int = 8) -> Tally:
    """Play traces, some side by side; `fresh`: compare with an engine that caches nothing."""
    tally = Tally()
    waiting = [make_trace(bench.family, seed) for seed in seeds]
    while waiting:
        side_by_side, waiting = waiting[:width], waiting[width:]
        tally.traces += len(side_by_side)
        while running := [trace for trace in side_by_side if not trace.is_over]:
            _play_turn(bench, running, tally, fresh=fresh)
    return tally


def _play_turn(bench: Bench, traces: Sequence[Trace], tally: Tally, *, fresh: bool) -> None:
    jobs: list[Job] = []
    asked: list[tuple[base.GenerationRequest, ChatRequest, Said, bool]] = []
    for trace in traces:
        calls = trace.steps[trace.at]
        if trace.at == 0 or not trace.steps[trace.at - 1]:
            trace.client.ask(words(trace.random, 20))
        said = said_by(bench.family, trace.random, calls=calls)
        script = sampled(bench.tokenizer, bench.family.write(said, trace.random), trace.random)
        fields, leaves = _ending(trace, said, len(script))
        body = trace.client.body(**{"max_tokens": 600} | fields)
        parsed, request = bench.parsed(trace.client.dialect, body)
        request = replace_logprobs(request)
        answered, prompt = bench.prompt(request)
        jobs.append(Job(answered, prompt, script, leaves))
        asked.append((parsed, request, said, bool(fields) or leaves is not None))
    outcomes = run(bench.engine, jobs)
    if fresh:
        _compare(bench, jobs, outcomes, tally)
    for trace, job, outcome, (parsed, request, said, is_cut) in zip(
        traces, jobs, outcomes, asked, strict=True
    ):
        text = bench.text(request)
        _check_reuse(bench, trace, text, job.prompt, outcome, tally)
        trace.before = (text, job.prompt, outcome, said, is_cut)
        _tell(trace, parsed, outcome)


def replace_logprobs(request: ChatRequest) -> ChatRequest:
    """Return a request that reports the probability of each token."""
    return ChatRequest(
        **{name: getattr(request, name) for name in request.__struct_fields__} | {"logprobs": 0}
    )


def _ending(trace: Trace, said: Said, tokens: int) -> tuple[dict[str, Any], int | None]:
    """Return fields that end some answers early, and when some clients leave."""
    random = trace.random
    if said.calls or tokens < 6 or random.random() < 0.6:
        return {}, None
    match random.choice(["length", "stop", "leaves"]):
        case "length":
            return {"max_tokens": random.randint(2, tokens - 2)}, None
        case "stop" if trace.client.dialect != "responses" and len(said.content) > 4:
            begin = random.randint(1, len(said.content) - 2)
            stop = said.content[begin : begin + random.randint(1, 3)]
            name = "stop" if trace.client.dialect == "chat" else "stop_sequences"
            return ({name: [stop]}, None) if stop.strip() else ({}, None)
        case "leaves":
            return {}, random.randint(2, tokens - 2)
    return {}, None


def _tell(trace: Trace, parsed: base.GenerationRequest, outcome: Outcome) -> None:
    """Give the answer to the client, which goes on."""
    done = outcome.done
    assert done is not None
    delta = delta_of([span for span in outcome.spans if span], [])
    ending = FinishInfo(
        "stop" if done.finish == "cancelled" else done.finish, done.completion_tokens
    )
    writer = DIALECTS[trace.client.dialect].writer(parsed, INFO)
    usage = base.Usage(1, 0, done.completion_tokens)
    trace.client.receive(json.loads(writer.full_response([(delta, ending)], usage)))
    if trace.steps[trace.at] and trace.client.calls:
        trace.client.give_results(trace.random)
    trace.at += 1


# --- what must hold -----------------------------------------------------------------------


def _compare(bench: Bench, jobs: Sequence[Job], outcomes: Sequence[Outcome], tally: Tally) -> None:
    """The same token prompts, read by an engine without any cache, give the same answers.

    Each is answered twice: with the script's first tokens, and freely.
    """
    raw = [
        ChatRequest([], Sampling(seed=0), COMPARED, prompt=job.prompt.tokens, logprobs=0)
        for job in jobs
    ]
    prompts = [build_prompt(bench.tokenizer, request) for request in raw]
    freely = run(bench.engine, [Job(*each) for each in zip(raw, prompts, strict=True)])
    scripts = [outcome.tokens[:COMPARED] for outcome in outcomes]
    again = run(
        bench.forgetful,
        [Job(*each) for each in zip(raw, prompts, scripts, strict=True)]
        + [Job(*each) for each in zip(raw, prompts, strict=True)],
    )
    for outcome, read_fresh in zip([*outcomes, *freely], again, strict=True):
        assert read_fresh.started is not None
        assert read_fresh.started.cached_tokens == 0
        if not _is_alike(outcome, read_fresh):
            tally.wrong.append("an answer differs from that of an engine without a cache")


def _is_alike(one: Outcome, other: Outcome) -> bool:
    """Return True if the first tokens are the same, and as likely but for rounding."""
    pairs = list(zip(one.logprobs, other.logprobs, strict=False))[:COMPARED]
    first = one.tokens[:COMPARED]  # some scripts are shorter
    return first == other.tokens[: len(first)] and all(
        abs(mine - theirs) < 1e-3 for mine, theirs in pairs
    )


def _check_reuse(
    bench: Bench, trace: Trace, text: str, prompt: Prompt, outcome: Outcome, tally: Tally
) -> None:
    assert outcome.started is not None
    if not prompt.splices and b"".join(bench.bytes_of(prompt.tokens)) != text.encode():
        tally.wrong.append("a prompt without splices is not its text")
    if trace.before is None:
        return
    before_text, before, earlier, said, is_cut = trace.before
    cached = outcome.started.cached_tokens
    tally.turns += 1
    tally.prompt += len(prompt.tokens)
    resident = [*before.tokens, *earlier.tokens]
    tally.cached += cached
    tally.resident += len(resident)
    is_full = (
        not is_cut
        and text.startswith(before_text)
        and (bench.family.several_calls or len(said.calls) <= 1)
        and (not said.reasoning or _is_shown(bench.family, trace))
    )
    spelled = bench.bytes_of(resident)
    common = common_prefix(b"".join(spelled), text.encode())
    ends = list(itertools.accumulate(map(len, spelled)))
    # The KV of a last token may be missing: no step was computed behind it.
    least = len(resident) - 1 if is_full else sum(end <= common for end in ends) - 2
    tally.seen["whole" if is_full else "cut" if is_cut else "changed"] += 1
    if bench.remembers and cached < min(least, len(prompt.tokens) - 1):
        parted = common_prefix(resident, prompt.tokens)
        tally.wrong.append(
            f"{trace.client}: turn {trace.at}: {cached} cached of {len(resident)}, at least {least}"
            f" expected; parted at {bench.tokenizer.decode(resident[parted - 20 : parted + 30])!r}"
            f" from {bench.tokenizer.decode(prompt.tokens[parted - 20 : parted + 30])!r}"
        )


def _is_shown(family: AgentFamily, trace: Trace) -> bool:
    """Return True if the template shows the reasoning of the turn before."""
    if not trace.client.keeps_reasoning or family.keeps == "none":
        return False
    return family.keeps == "all" or trace.steps[trace.at - 1]


def table(rows: Iterable[tuple[str, Tally, Tally]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown: without the history and with it, by template."""
    yield (
        "| template | traces | turns | without: of the prompt | of the turn before |"
        " with: of the prompt | of the turn before |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, without, remembered in rows:
        yield (
            f"| {name} | {remembered.traces:,} | {remembered.turns:,} |"
            f" {without.shares} | {remembered.shares} |"
        )
