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

import msgspec

from mlx_worker.api.dialects import base
from mlx_worker.api.dialects.registry import DIALECTS
from mlx_worker.engine.kv.prefix import common_prefix
from mlx_worker.engine.prompt import build_prompt
from mlx_worker.supervisor.requests.generation import FinishInfo
from mlx_worker.supervisor.requests.output_buffer import delta_of
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.agent_bench import Bench, Job, Outcome, run
from tests.agent_clients import DIALECT_NAMES, NAMES, Client, words
from tests.agent_templates import Said
from tests.fidelity.ties import ROUNDS_BY_SHAPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mlx_worker.engine.prompt import Prompt
    from tests.agent_templates import AgentFamily, Call

INFO: Final = base.ResponseInfo("m", 1, "fp_1", reasoning_summaries="always")
COMPARED: Final = 12
"""Tokens of each answer that are compared with those of an engine without a cache."""
AS_LIKELY: Final = 1e-3
"""Log-probabilities of a token that differ by less are the same but for rounding."""


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
    ties: int = 0
    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def shares(self) -> str:
        """Return the cached shares of the prompts, and of the turns before."""
        prompt, turn = (self.cached / max(1, part) for part in (self.prompt, self.resident))
        return f"{prompt:.1%} | {turn:.1%}"


def play(
    bench: Bench,
    seeds: Iterable[int],
    *,
    fresh: bool = True,
    width: int = 8,
    between: Callable[[], None] = lambda: None,
) -> Tally:
    """Play traces, some side by side; `fresh`: compare with an engine that caches nothing.

    `between` is called after each turn.
    """
    tally = Tally()
    waiting = [make_trace(bench.family, seed) for seed in seeds]
    while waiting:
        side_by_side, waiting = waiting[:width], waiting[width:]
        tally.traces += len(side_by_side)
        while running := [trace for trace in side_by_side if not trace.is_over]:
            _play_turn(bench, running, tally, fresh=fresh)
            between()
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
        request = msgspec.structs.replace(request, logprobs=0)
        answered, prompt = bench.prompt(request)
        jobs.append(Job(answered, prompt, script, leaves))
        asked.append((parsed, request, said, bool(fields) or leaves is not None))
    outcomes = run(bench.engine, jobs, in_session=bench.in_session)
    if fresh:
        _compare(bench, jobs, outcomes, tally)
    for trace, job, outcome, (parsed, request, said, is_cut) in zip(
        traces, jobs, outcomes, asked, strict=True
    ):
        text = bench.text(request)
        _check_reuse(bench, trace, text, job.prompt, outcome, tally)
        trace.before = (text, job.prompt, outcome, said, is_cut)
        _tell(trace, parsed, outcome)


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
        if ROUNDS_BY_SHAPE and _part_at_a_tie(outcome, read_fresh):
            tally.ties += 1
        elif not _is_alike(outcome, read_fresh):
            tally.wrong.append("an answer differs from that of an engine without a cache")


def _part_at_a_tie(one: Outcome, other: Outcome) -> bool:
    """Return True if the first other token is as likely as the one in its place.

    Each is the likeliest token of its own engine. So both are as likely there, but for rounding.
    """
    both = zip(one.tokens, other.tokens, one.logprobs, other.logprobs, strict=False)
    for token, place, mine, theirs in list(both)[:COMPARED]:
        if abs(mine - theirs) >= AS_LIKELY:
            return False
        if token != place:
            return True
    return False


def _is_alike(one: Outcome, other: Outcome) -> bool:
    """Return True if the first tokens are the same, and as likely but for rounding."""
    pairs = list(zip(one.logprobs, other.logprobs, strict=False))[:COMPARED]
    first = one.tokens[:COMPARED]  # some scripts are shorter
    return first == other.tokens[: len(first)] and all(
        abs(mine - theirs) < AS_LIKELY for mine, theirs in pairs
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
    alike = sum(end <= common for end in ends) - 2
    least = len(resident) - 1 if is_full else alike // bench.grain * bench.grain
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
