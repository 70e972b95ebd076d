"""The conversations that a chat template accepts, and others brought into such a form.

Clients send what their API allows: system turns anywhere, turns of one role in a row, calls with
any arguments that a model wrote. Templates were written for the conversations of their model's
training, and raise on others. Each template is probed once with a few short conversations; turns
that the template does not accept are then converted. The result depends on the turns so far alone,
so that a conversation keeps its prefix when it continues. [child]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from jinja2 import TemplateError

from mlx_worker.engine.templates.earlier_reasoning import (
    NAMES,
    NEUTRAL,
    with_name,
    with_neutral_name,
)
from mlx_worker.engine.templates.single_calls import with_single_calls

if TYPE_CHECKING:
    from collections.abc import Iterable

Turn = dict[str, Any]

REFUSALS: Final = (
    TemplateError,
    TypeError,
    KeyError,
    ValueError,
    AttributeError,
    ArithmeticError,
    IndexError,
    RecursionError,
    AssertionError,
    NotImplementedError,
)
"""A template is a program of the model's author, which may refuse a chat by any of these errors."""

PARAGRAPH: Final = "\n\n"


@dataclass(frozen=True, slots=True)
class TemplateRules:
    """Say what a template accepts and shows.

    `system`: a system turn at the beginning; `later_system`: anywhere else too. `user_runs` and
    `assistant_runs`: turns of that role in a row. `assistant_first`: a conversation that the
    assistant begins. `any_arguments`: calls whose arguments are no object. `reasoning`: the key of
    a turn's reasoning; `words_beside_reasoning`: a turn may have both where it has calls too.
    `several_calls`: calls side by side in a turn.
    """

    system: bool = True
    later_system: bool = True
    user_runs: bool = True
    assistant_runs: bool = True
    assistant_first: bool = True
    any_arguments: bool = True
    reasoning: str = NEUTRAL
    words_beside_reasoning: bool = True
    several_calls: bool = True


@lru_cache(maxsize=8)
def rules_of(tokenizer: Any) -> TemplateRules:
    """Return what the tokenizer's chat template accepts, by rendering about twenty short chats."""
    probe = _Probe(tokenizer)
    if not probe.shows("user"):
        return TemplateRules()  # nothing is known of this template: change nothing
    reasoning = next((name for name in NAMES if probe.shows_reasoning(name)), NEUTRAL)
    return TemplateRules(
        system=probe.shows("system", "user"),
        later_system=all(
            probe.shows(*roles)
            for roles in (
                ("user", "system", "user"),
                ("user", "system"),
                ("system", "user", "system"),
                ("system", "user", "assistant", "system", "user"),
            )
        ),
        user_runs=probe.shows("user", "user"),
        assistant_runs=probe.shows("user", "assistant", "assistant", "user"),
        assistant_first=probe.shows("assistant", "user"),
        any_arguments=probe.shows_arguments("probe") or not probe.shows_arguments({"a": "probe"}),
        reasoning=reasoning,
        words_beside_reasoning=probe.takes_words_beside(reasoning),
        several_calls=probe.shows_calls(_TWO_CALLS)
        or not probe.shows_calls(with_single_calls(_TWO_CALLS)),
    )


def fit_to_template(tokenizer: Any, messages: list[Turn]) -> list[Turn]:
    """Return a conversation in a form that the template accepts; `messages` are not changed."""
    rules = rules_of(tokenizer)
    turns = [
        with_neutral_name(_with_arguments(_without_empty_calls(turn), rules)) for turn in messages
    ]
    turns = _join_leading_systems(turns)
    if not rules.later_system:
        turns = _fold_systems(turns, first=0 if not rules.system else 1)
    if turns and turns[0]["role"] == "assistant" and not rules.assistant_first:
        turns = [{"role": "user", "content": ""}, *turns]
    joined = [
        role
        for role, takes_runs in (("user", rules.user_runs), ("assistant", rules.assistant_runs))
        if not takes_runs
    ]
    turns = _join_runs(turns, joined) if joined else turns
    if not rules.several_calls:
        turns = with_single_calls(turns)
    if rules.reasoning == NEUTRAL and rules.words_beside_reasoning:
        return turns
    return [
        with_name(turn, rules.reasoning, beside_words=rules.words_beside_reasoning)
        for turn in turns
    ]


# --- systems ------------------------------------------------------------------------------


def _join_leading_systems(turns: list[Turn]) -> list[Turn]:
    end = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    return [_joined(turns[:end]), *turns[end:]] if end > 1 else turns


def _fold_systems(turns: list[Turn], first: int) -> list[Turn]:
    """Put the text of system turns from `first` on into the user's turn beside each of them.

    The turn in front, if that is the user's; else the turn behind; else a new turn.
    """
    folded: list[Turn] = []
    ahead = ""
    for i, turn in enumerate(turns):
        if turn["role"] == "system" and i >= first:
            if not turn["content"]:
                continue
            if folded and folded[-1]["role"] == "user" and not ahead:
                folded[-1] = _extended(folded[-1], turn["content"])
            else:
                ahead = PARAGRAPH.join(filter(None, (ahead, turn["content"])))
        elif ahead and turn["role"] == "user":
            folded.append(turn | {"content": PARAGRAPH.join((ahead, turn["content"] or ""))})
            ahead = ""
        else:
            if ahead:
                folded.append({"role": "user", "content": ahead})
                ahead = ""
            folded.append(turn)
    return [*folded, {"role": "user", "content": ahead}] if ahead else folded


# --- turns in a row -----------------------------------------------------------------------


def _join_runs(turns: list[Turn], roles: Iterable[str]) -> list[Turn]:
    runs: list[list[Turn]] = []
    for turn in turns:
        if runs and turn["role"] in roles and runs[-1][0]["role"] == turn["role"]:
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return [_joined(run) for run in runs]


def _joined(run: list[Turn]) -> Turn:
    """Return turns of one role as one: their words in paragraphs, their calls in a row."""
    if len(run) == 1:
        return run[0]
    turn = {key: value for each in run for key, value in each.items()}
    for key in ("content", "reasoning_content"):
        if any(key in each for each in run):
            turn[key] = PARAGRAPH.join(each[key] for each in run if each.get(key))
    calls = [call for each in run for call in each.get("tool_calls") or ()]
    return turn | ({"tool_calls": calls} if calls else {})


def _extended(turn: Turn, text: str) -> Turn:
    return turn | {"content": PARAGRAPH.join(filter(None, (turn["content"], text)))}


# --- calls --------------------------------------------------------------------------------


def _without_empty_calls(turn: Turn) -> Turn:
    """Return a turn without an empty list of calls: some templates check only for the key."""
    if "tool_calls" in turn and not turn["tool_calls"]:
        return {key: value for key, value in turn.items() if key != "tool_calls"}
    return turn


def _with_arguments(turn: Turn, rules: TemplateRules) -> Turn:
    """Return a turn whose calls have objects for arguments, not OpenAI's strings of JSON."""
    calls = turn.get("tool_calls")
    return turn | {"tool_calls": [_read_call(call, rules) for call in calls]} if calls else turn


def _read_call(call: Any, rules: TemplateRules) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments = _read_arguments(function.get("arguments"), rules)
    return call | {"function": function | {"arguments": arguments}}


def _read_arguments(written: Any, rules: TemplateRules) -> Any:
    """Return the object that a call's arguments are; else what the template can show of them."""
    value = _parsed(written)
    if isinstance(value, str) and isinstance(inner := _parsed(value), dict):
        value = inner  # an object that was encoded twice
    if isinstance(value, dict):
        return value
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return {}
    return value if rules.any_arguments else {"arguments": written}


def _parsed(written: Any) -> Any:
    if not isinstance(written, str):
        return written
    try:
        value = json.loads(written)
        return _without_halves(value) if "\\u" in written else value
    except (ValueError, RecursionError):
        return written  # invalid JSON is passed on as text


def _without_halves(value: Any) -> Any:
    """Return a JSON value in which half of a surrogate pair, which no tokenizer takes, is U+FFFD.

    A model that was cut within the escapes of an emoji wrote one of them.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value


# --- asking a template --------------------------------------------------------------------


_HELLO: Final[Turn] = {"role": "user", "content": "hello"}


def _with_call(more: Turn, arguments: Any = None) -> list[Turn]:
    """Return a conversation in which the assistant calls a tool in a turn that has `more`."""
    function = {"name": "look", "arguments": {} if arguments is None else arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return [
        _HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call]} | more,
        {"role": "tool", "tool_call_id": "call_1", "content": "found"},
    ]


_CALLED: Final = ("probe0word", "probe1word")
_TWO_CALLS: Final[list[Turn]] = [
    _HELLO,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": name, "type": "function", "function": {"name": name, "arguments": {}}}
            for name in _CALLED
        ],
    },
    *({"role": "tool", "tool_call_id": name, "content": "found"} for name in _CALLED),
]


class _Probe:
    """Render short conversations, and check whether a template shows all their texts."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def shows(self, *roles: str) -> bool:
        """Return True if each of these turns is in the rendering, in this order."""
        words = [f"probe{i}word" for i in range(len(roles))]
        text = self._rendered(
            [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
        )
        places = [text.find(word) for word in words]
        return -1 not in places and places == sorted(places)

    def shows_arguments(self, arguments: Any) -> bool:
        """Return True if a call with these arguments is in the rendering; they hold "probe"."""
        return "probe" in self._rendered(_with_call({}, arguments))

    def shows_reasoning(self, name: str) -> bool:
        """Return True if reasoning under this key is shown before a call, or before an answer."""
        answer = {"role": "assistant", "content": "yes", name: "probe"}
        return "probe" in self._rendered(_with_call({name: "probe"})) or "probe" in self._rendered(
            [_HELLO, answer, _HELLO]
        )

    def shows_calls(self, turns: list[Turn]) -> bool:
        """Return True if both calls are in the rendering of these turns."""
        text = self._rendered(turns)
        return all(name in text for name in _CALLED)

    def takes_words_beside(self, name: str) -> bool:
        """Return False if a call's turn is refused for having words and reasoning, not one."""
        alone = self._rendered(_with_call({name: "probe"}))
        return not alone or bool(self._rendered(_with_call({name: "probe", "content": "words"})))

    def _rendered(self, turns: list[Turn]) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=True
                )
            )
        except REFUSALS:
            return ""
