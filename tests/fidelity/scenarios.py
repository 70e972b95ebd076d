"""What can happen to an engine: requests join and leave, share prefixes, repeat, are cancelled.

A scenario is data, drawn by hypothesis and shrunk by it when an answer is wrong. Playing one
drives a real engine step by step and compares every request in it, tokens and text, with what
mlx_lm says alone.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

from hypothesis import strategies as st

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.prefill import chunk_past_segment_ends
from mlx_worker.engine.prompt import Prompt
from mlx_worker.wire.messages import PrefillProgress, Started
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.prompt_cache import PromptWarmed
from mlx_worker.wire.request import Sampling
from tests.fidelity import tally
from tests.fidelity.reference import GREEDY, Ask, Model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hypothesis.strategies import SearchStrategy

LONGEST = 900
"""Tokens of a prompt; answers grow out of answers, and must end somewhere."""


# --- what is asked ------------------------------------------------------------------------


@dataclass(frozen=True)
class New:
    """A first turn: one of a few system prompts, then something of its own."""

    system: int
    """Which text, and how many tokens of it."""
    system_prefix: int
    own: int
    length: int


@dataclass(frozen=True)
class Next:
    """A later turn: an earlier request, what was said to it, and more."""

    of: int
    answer: bool
    own: int
    length: int


@dataclass(frozen=True)
class Cut:
    """An earlier request's first tokens: what is cached is longer than what is asked."""

    of: int
    share: float


@dataclass(frozen=True)
class Admit:
    """A request joins."""

    prompt: New | Next | Cut
    max_tokens: int
    sampling: Sampling
    stop: tuple[float, float] | None
    """Where in the answer's text the stop string begins, and how much of the rest it takes."""


@dataclass(frozen=True)
class Steps:
    """Time passes."""

    count: int


@dataclass(frozen=True)
class Cancel:
    """A client leaves."""

    which: int


@dataclass(frozen=True)
class Crash:
    """The engine is gone, and another goes on with all that was running."""


@dataclass(frozen=True)
class Replay:
    """One request is taken up again from some way back in what it has said."""

    which: int
    share: float


@dataclass(frozen=True)
class Warm:
    """A system prompt is warmed."""

    system: int
    system_prefix: int


@dataclass(frozen=True)
class Clear:
    """The cache is cleared."""


@dataclass(frozen=True)
class Chunk:
    """Prefill goes on in chunks of another size; 0: as the engine likes."""

    tokens: int


Event = Admit | Steps | Cancel | Crash | Replay | Warm | Clear | Chunk


def tokens(salt: int, seed: int, count: int) -> tuple[int, ...]:
    """Any tokens at all, special ones too."""
    draw = random.Random(f"{salt}/{seed}").randrange
    return tuple(draw(1024) for _ in range(count))


# --- what is drawn ------------------------------------------------------------------------

seeds = st.integers(0, 1 << 16)
# Around the borders of a window, of mlx_lm's blocks of 256 and of a prefill chunk.
heads = st.sampled_from([0, 0, 1, 2, 30, 31, 32, 33, 64, 200, 255, 256, 257, 511, 512, 513])
lengths = st.one_of(st.integers(1, 40), st.sampled_from([31, 32, 33, 63, 65, 257]))
news = st.builds(New, system=st.integers(0, 2), system_prefix=heads, own=seeds, length=lengths)
nexts = st.builds(
    Next, of=st.integers(0, 7), answer=st.booleans(), own=seeds, length=st.integers(0, 40)
)
cuts = st.builds(Cut, of=st.integers(0, 7), share=st.floats(0.05, 1.0))

greedy = st.just(GREEDY)
sampled = st.builds(
    Sampling,
    seed=st.integers(0, (1 << 64) - 1),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.5]),
    top_p=st.sampled_from([1.0, 0.9, 0.5]),
    top_k=st.sampled_from([0, 1, 5, 40]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.4]),
    logit_bias=st.dictionaries(st.integers(300, 1023), st.sampled_from([-5.0, 3.0]), max_size=2),
)
shaped = st.builds(
    Sampling,
    seed=st.just(0),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
)
stops = st.one_of(st.none(), st.none(), st.tuples(st.floats(0, 1), st.floats(0, 0.5)))

admits = st.builds(
    Admit,
    prompt=st.one_of(news, news, nexts, cuts),
    max_tokens=st.one_of(st.integers(1, 24), st.sampled_from([1, 2, 48])),
    sampling=st.one_of(greedy, greedy, greedy, sampled, shaped),
    stop=stops,
)
others = st.one_of(
    st.builds(Cancel, which=st.integers(0, 7)),
    st.builds(Cancel, which=st.integers(0, 7)),
    st.builds(Crash),
    st.builds(Replay, which=st.integers(0, 7), share=st.floats(0, 1)),
    st.builds(Replay, which=st.integers(0, 7), share=st.just(1.0)),
    st.builds(Warm, system=st.integers(0, 2), system_prefix=heads),
    st.builds(Chunk, tokens=st.sampled_from([0, 2, 3, 16, 64, 512])),
    st.just(Clear()),
)
steps = st.builds(Steps, count=st.integers(0, 12))


@dataclass(frozen=True)
class Scenario:
    """What happens, in order; whoever is left at the end is served to the end."""

    events: tuple[Event, ...]
    concurrency: int

    @property
    def salt(self) -> int:
        """What makes its tokens its own: no two scenarios are to ask the same."""
        return crc32(repr(self.events).encode())


@st.composite
def scenarios(draw: Any, requests: int, concurrency: SearchStrategy[int]) -> Scenario:
    """So many requests, with time and other events between them."""
    events: list[Event] = []
    for _ in range(requests):
        events.append(draw(admits))
        events.append(draw(steps))
        if draw(st.booleans()):
            events += [draw(others), draw(steps)]
    return Scenario(tuple(events), draw(concurrency))


# --- what comes of it ---------------------------------------------------------------------


@dataclass
class Row:
    """One request in the engine, and what it has been told."""

    id: int
    ask: Ask
    started: Started | None = None
    """None: it waits."""
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    """The text that each token released."""
    logprobs: list[float] = field(default_factory=list)
    """Of the tokens that came with one: of all but an end of text, where the request asks."""
    read: int = 0
    done: Done | None = None
    replays: int = 0
    resumed: int = 0
    """Tokens that a former engine has sent, by `Stage.resume`: their text is not known here."""

    @property
    def text(self) -> str:
        return "".join(self.pieces) + (self.done.text if self.done else "")


class Stage:
    """An engine under way."""

    def __init__(self, model: Model, concurrency: int = 8) -> None:
        self.model = model
        self.rows: list[Row] = []
        self.engine = self._new_engine(concurrency)
        self._concurrency = concurrency
        self._by_id: dict[int, Row] = {}
        self._warming: set[int] = set()
        self._ids = itertools.count(1)

    def _new_engine(self, concurrency: int) -> Engine:
        model = self.model
        return Engine(
            model.model, model.tokenizer, context_length=8192, max_concurrency=concurrency
        )

    @property
    def running(self) -> list[Row]:
        return [row for row in self.rows if row.done is None]

    def admit(self, ask: Ask) -> Row:
        row = Row(next(self._ids), ask)
        self._by_id[row.id] = row
        self.rows.append(row)
        self._hand_in(row)
        return row

    def resume(self, ask: Ask, said: Iterable[int]) -> Row:
        """Admit a request of which a former engine has sent these tokens."""
        row = Row(next(self._ids), ask, tokens=list(said))
        row.resumed = len(row.tokens)
        self._by_id[row.id] = row
        self.rows.append(row)
        self._hand_in(row)
        return row

    def _hand_in(self, row: Row) -> None:
        ask = row.ask
        prompt = self._prompt_of(ask)
        session = len(ask.prompt) % 2 == 0
        word = self.engine.admit(row.id, ask.request, prompt, replay=row.tokens, in_session=session)
        assert not isinstance(word, Done), "nothing was left to say, and nobody said so"
        row.started = word

    def _prompt_of(self, ask: Ask) -> Prompt:
        return Prompt(list(ask.prompt), ask.system_prefix, "", ask.segment_ends)

    def replay(self, row: Row, share: float) -> None:
        """Have a request taken up again, after a share of what it has said."""
        self.engine.cancel(row.id)
        self._take_up(row, round(share * len(row.tokens)))

    def crash(self) -> None:
        """All KV is lost; what was said is not."""
        self.engine = self._new_engine(self._concurrency)
        self._warming.clear()
        for row in self.running:
            self._take_up(row, len(row.tokens))

    def _take_up(self, row: Row, said: int) -> None:
        del row.tokens[said:], row.pieces[said:]
        del self._by_id[row.id]
        row.id = next(self._ids)
        row.replays += 1
        self._by_id[row.id] = row
        self._hand_in(row)

    def warm(self, head: tuple[int, ...]) -> None:
        id_ = next(self._ids)
        if self.engine.admit_warm(id_, list(head), "warm") is None:
            self._warming.add(id_)

    def cancel(self, row: Row) -> Done:
        done = self.engine.cancel(row.id)
        assert done is not None
        row.done = done
        return done

    def set_chunk_size(self, size: int) -> None:
        """Have prompts read in chunks of this size, whatever the engine would choose.

        The engine's one rule about sizes holds here too, unless the size is one.
        """
        batch = self.engine._batch

        def next_in_chunks() -> Any:
            readers = self.engine._sequences.readers()
            batch.prefill_step_size = size if size == 1 else chunk_past_segment_ends(size, readers)
            return type(batch).next(batch)

        batch.next = next_in_chunks if size else partial(type(batch).next, batch)

    def step(self) -> list[Any]:
        """One step; each row hears its own, in order, and nothing after its last word."""
        said = self.engine.step()
        for message in said:
            match message:
                case StepOutput():
                    for part in message.rows:
                        row = self._by_id[part.id]
                        assert row.started is not None, "a token before Started"
                        assert row.done is None, "a token after the last word"
                        row.tokens += part.tokens
                        row.pieces.append(part.text)
                        row.logprobs += [entry.chosen.logprob for entry in part.logprobs]
                case Done():
                    row = self._by_id[message.id]
                    assert row.done is None, "a second last word"
                    row.done = message
                case Started():
                    assert message.id not in self._warming, "warming has no Started"
                    row = self._by_id[message.id]
                    assert row.started is None, "started twice"
                    row.started = message
                case PrefillProgress() if message.id in self._by_id:
                    self._by_id[message.id].read = message.done
                case PromptWarmed():
                    self._warming.remove(message.id)
                case _:
                    pass
        return said

    def finish(self) -> None:
        """Serve whoever is left; everyone has had a last word."""
        while self.engine.active:
            self.step()
        assert not self.running
        assert not self._warming


def ask_of(model: Model, admit: Admit, salt: int, earlier: list[Ask]) -> Ask:
    """The request itself: which tokens, and which stop string."""
    match admit.prompt:
        case Next(of, answer, own, length) if earlier:
            before = earlier[of % len(earlier)]
            said = tuple(model.answer(before).tokens) if answer else ()
            prompt, head = before.prompt + said + tokens(salt, own, length), before.system_prefix
        case Cut(of, share) if earlier:
            before = earlier[of % len(earlier)]
            prompt = before.prompt[: max(1, round(len(before.prompt) * share))]
            head = before.system_prefix
        case New(system, head, own, length):
            prompt = tokens(salt, -1 - system, head) + tokens(salt, own, length)
        case _:
            prompt, head = tokens(salt, 0, 5), 0
    if len(prompt) > LONGEST:
        prompt = prompt[-40:]
        head = 0
    head = min(head, len(prompt) - 1)
    borders = borders_of(prompt, head, salt)
    ask = Ask(prompt, head, admit.max_tokens, admit.sampling, (), borders)
    if admit.stop is None:
        return ask
    text = model.answer(ask).text
    start, share = admit.stop
    first = int(start * len(text))
    word = text[first : first + 1 + int(share * (len(text) - first))]
    # One that never comes, though its first half may; one that does, unless the text is short.
    never = text[first // 2 : first // 2 + 3] + "#"
    return replace(ask, stop=tuple({never, word} - {""}))


def borders_of(prompt: tuple[int, ...], head: int, salt: int) -> tuple[int, ...]:
    """Where its history and its last turn end: anywhere, but often near the head or the end."""
    draw = random.Random(f"{salt}/{len(prompt)}")
    last = len(prompt) - 1
    near = [head + 1, head + 2, last - 1, last, draw.randint(head, last)]
    return tuple(sorted({end for end in draw.sample(near, 2) if head < end <= last}))


def play(  # noqa: C901  (a case an event)
    model: Model, scenario: Scenario, kind: type[Stage] = Stage
) -> Stage:
    """Let it happen."""
    stage = kind(model, scenario.concurrency)
    salt = scenario.salt
    for event in scenario.events:
        match event:
            case Admit():
                stage.admit(ask_of(model, event, salt, [row.ask for row in stage.rows]))
            case Steps(count):
                for _ in range(count):
                    stage.step()
            case Cancel(which) if running := stage.running:
                stage.cancel(running[which % len(running)])
            case Crash():
                stage.crash()
            case Replay(which, share) if running := stage.running:
                stage.replay(running[which % len(running)], share)
            case Warm(system, head) if head:
                stage.warm(tokens(salt, -1 - system, head))
            case Chunk(size):
                stage.set_chunk_size(size)
            case Clear():
                stage.engine.clear_cache()
            case _:
                pass
    stage.finish()
    return stage


def wrong(model: Model, row: Row) -> str | None:
    """Where a row differs from what mlx_lm says alone; None: nowhere."""
    answer = model.answer(row.ask)
    text, finish = model.text(row.ask)
    assert row.done is not None
    cached = row.started.cached_tokens if row.started is not None else 0
    said = f"{len(row.ask.prompt)} prompt tokens, {cached} cached, {row.replays} replays"
    for i, (ours, theirs) in enumerate(zip(row.tokens, answer.tokens, strict=False)):
        if ours != theirs and model.is_tie(row.ask, i, ours):
            tally.ties[model.name] += 1
            return None
        if ours != theirs:
            return f"token {i} is {ours}, not {theirs}, ahead by {answer.gaps[i]:.1e} ({said})"
    if row.done.finish == "cancelled":
        return None if text.startswith(row.text) else f"{row.text!r} does not begin {text!r}"
    if row.text != text or row.done.finish != finish:
        return f"{row.text!r} ({row.done.finish}) is not {text!r} ({finish}) ({said})"
    if finish == "stop" and row.ask.stop:
        return None
    return None if row.tokens == answer.tokens else f"{row.tokens} is not {answer.tokens} ({said})"


def mistakes(model: Model, rows: Iterable[Row]) -> list[str]:
    return [mistake for row in rows if (mistake := wrong(model, row)) is not None]
