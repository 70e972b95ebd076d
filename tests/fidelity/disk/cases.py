"""Chats that share what KV on disk may serve, asked before an event and again after the event.

System prompts, sessions, later turns with generated answers, other turns in place of the last one,
repeats. What each chat must say is what mlx_lm says alone, which has no cache of any kind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.wire.request import Sampling
from tests.fidelity.reference import Answer, Ask, Model
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from random import Random

    from tests.disk_nodes import DiskUse
    from tests.processes import RunningNode

Messages = tuple[dict[str, str], ...]

SYSTEM_WORDS: Final = (40, 253, 270, 520)
"""Lengths of system prompts: below, at and beyond the ends of chunks of 256 tokens."""

SYSTEMS: Final = 24
"""System prompts of one round: after an event only the first chat of each can read from disk."""

LONGEST: Final = 700
"""Words of a chat; a later turn of a longer one begins a new chat."""

ROUNDING: Final = 1e-3
"""Of a log-probability in float32; what is measured stays far below."""

ANSWERS: Final = (1, 3, 6)
"""Tokens of the answers."""


@dataclass(frozen=True)
class Case:
    """One request: its messages, its settings, and the session that it names, "" for none."""

    messages: Messages
    max_tokens: int
    sampling: tuple[tuple[str, float | int], ...] = ()
    session: str = ""

    def ask(self, model: Model) -> Ask:
        """Return what mlx_lm is asked in place of the node."""
        tokens = model.tokenizer.apply_chat_template(
            list(self.messages), add_generation_prompt=True
        )
        sampling: dict[str, Any] = {"seed": 0, **dict(self.sampling)}
        return Ask(tuple(tokens), max_tokens=self.max_tokens, sampling=Sampling(**sampling))

    def answer(self, model: Model) -> Answer:
        """Return what mlx_lm says alone."""
        return model.answer(self.ask(model))

    @property
    def words(self) -> int:
        """Return about how many tokens the messages have."""
        return sum(len(message["content"].split()) for message in self.messages)


@dataclass(frozen=True)
class Heard:
    """What a client got: text, end, log-probabilities, and how much of the prompt was cached."""

    text: str
    finish: str
    logprobs: list[float]
    prompt: int
    cached: int


def words(draw: Random, count: int) -> str:
    """Return this many words, " "-separated."""
    return " ".join(draw.choices(WORDS, k=count))


def settings(draw: Random) -> tuple[tuple[str, float | int], ...]:
    """Return what is asked besides: mostly greedy, at times sampled."""
    if draw.random() < 0.7:
        return (("temperature", 0.0),)
    chosen: dict[str, float | int] = {"temperature": 0.9, "seed": draw.getrandbits(62)}
    return tuple((chosen | draw.choice([{}, {"top_p": 0.9}, {"top_k": 20}])).items())


class Conversations:
    """Draw the chats of many rounds; later rounds know those of earlier ones."""

    def __init__(self, model: Model, draw: Random) -> None:
        self._model = model
        self._draw = draw
        self._systems: list[str] = []
        self._asked: list[Case] = []
        self._round: list[Case] = []

    def before(self, count: int) -> list[Case]:
        """Return what is asked before an event: new chats, and turns of theirs."""
        draw = self._draw
        lengths = [draw.choice(SYSTEM_WORDS) for _ in range(SYSTEMS)]
        self._systems = [words(draw, length) for length in lengths]
        self._round = []
        for _ in range(count):
            kind = draw.random()
            if not self._round or kind < 0.4:
                case = self._first_turn()
            elif kind < 0.65:
                case = self._next_turn(draw.choice(self._round))
            elif kind < 0.8:
                case = self._other_turn(draw.choice(self._round))
            else:
                case = draw.choice(self._round)  # a stranger's prompt is written when used twice
            self._round.append(case)
        return list(self._round)

    def after(self, count: int) -> list[Case]:
        """Return what is asked after the event: the same, what extends it, what branches off."""
        draw = self._draw
        cases = []
        for _ in range(count):
            kind, of = draw.random(), draw.choice(self._round)
            if self._asked and kind < 0.1:
                cases.append(draw.choice(self._asked))  # of an earlier round
            elif kind < 0.45:
                cases.append(of)
            elif kind < 0.7:
                cases.append(self._next_turn(of))
            elif kind < 0.85:
                cases.append(self._other_turn(of))
            else:
                cases.append(self._first_turn())
        self._asked += self._round
        return cases

    def _first_turn(self) -> Case:
        draw = self._draw
        messages = [{"role": "user", "content": words(draw, draw.choice([1, 9, 60, 200]))}]
        if draw.random() < 0.8:
            messages.insert(0, {"role": "system", "content": draw.choice(self._systems)})
        session = f"s{draw.getrandbits(40)}" if draw.random() < 0.6 else ""
        return Case(tuple(messages), draw.choice(ANSWERS), settings(draw), session)

    def _next_turn(self, of: Case) -> Case:
        if of.words > LONGEST:
            return self._first_turn()
        said = {"role": "assistant", "content": of.answer(self._model).text}
        turn = {"role": "user", "content": words(self._draw, self._draw.randint(1, 60))}
        messages = (*of.messages, said, turn)
        return replace(of, messages=messages, max_tokens=self._draw.choice(ANSWERS))

    def _other_turn(self, of: Case) -> Case:
        turn = {"role": "user", "content": words(self._draw, self._draw.randint(1, 60))}
        return replace(of, messages=(*of.messages[:-1], turn))


def hear(node: RunningNode, name: str, case: Case) -> Heard:
    """Ask a node and return what its client gets."""
    body = {
        "model": name,
        "messages": case.messages,
        "max_tokens": case.max_tokens,
        "logprobs": True,
        **dict(case.sampling),
    }
    headers = {"X-Session-Id": case.session} if case.session else {}
    answer = node.ask("/v1/chat/completions", body, headers=headers)
    assert answer.status == 200, answer.body
    (choice,), usage = answer.json["choices"], answer.json["usage"]
    return Heard(
        choice["message"]["content"] or "",
        choice["finish_reason"],
        [entry["logprob"] for entry in (choice["logprobs"] or {}).get("content") or []],
        usage["prompt_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )


def difference(model: Model, case: Case, heard: Heard) -> str | None:
    """Return how an answer differs from what mlx_lm says alone; None where it does not."""
    answer = case.answer(model)
    if (heard.text, heard.finish) != (answer.text, answer.finish):
        return f"{heard.text!r} is not {answer.text!r}, whose gaps are {answer.gaps}: {case}"
    pairs = zip(heard.logprobs, answer.logprobs, strict=False)
    moved = [abs(ours - theirs) for ours, theirs in pairs]
    if any(change > ROUNDING for change in moved):
        return f"log-probabilities moved by {moved}: {case}"
    return None


@dataclass
class Counted:
    """Cases and mismatches of one family by event, and where prompt tokens came from."""

    family: str
    cases: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    read: dict[str, Counter[str]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def add(self, event: str, heard: list[Heard], wrong: list[str], disk: DiskUse) -> None:
        """Count the answers after an event, and what of their prompts was read from disk."""
        self.cases[event] += len(heard)
        self.wrong[event] += len(wrong)
        self.complaints += wrong
        prompt, cached = sum(one.prompt for one in heard), sum(one.cached for one in heard)
        sources = {
            "hits": disk.hits,
            "memory": cached - disk.tokens,
            "disk": disk.tokens,
            "prefill": prompt - cached,
        }
        self.read.setdefault(event, Counter()).update(sources)

    def table(self) -> str:
        """Return the lines of a table, one an event."""
        columns = ("hits", "memory", "disk", "prefill")
        titles = "".join(
            f"{title:>{width}}"
            for title, width in zip(
                ("cases", "wrong", "disk hits", "memory", "disk", "prefill"),
                (7, 7, 10, 10, 10, 10),
                strict=True,
            )
        )
        lines = [f"{self.family:>12} {'after':<16}{titles}"]
        for event, cases in self.cases.items():
            read = "".join(f"{self.read[event][column]:>10,}" for column in columns)
            lines.append(f"{'':>12} {event:<16}{cases:>7,}{self.wrong[event]:>7,}{read}")
        return "\n".join(lines)
