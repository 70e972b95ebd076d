"""Conversations as clients send them, for templates as models have them."""

from __future__ import annotations

import copy
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

from mlx_worker.engine.prompt import render, system_prefix_tokens
from mlx_worker.engine.templates.rules import TemplateRules, fit_to_template, rules_of
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
FIRST_ONLY = TURNS.replace(
    "%}<",
    "%}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}<",
    1,
)
SILENT = TURNS.replace("%}<", "%}{% if m.role != 'system' or loop.first %}<", 1).replace(
    "</>", "</>{% endif %}"
)
ALTERNATE = TURNS.replace(
    "%}<",
    "%}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}<",
    1,
)
CALLS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} ARGUMENTS]{% endfor %}</>{% endfor %}"
)
AS_JSON = CALLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")
BY_KEY = CALLS.replace(
    "ARGUMENTS", "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}"
)
KEY_IS_THERE = CALLS.replace(
    "{% for c in",
    "{% if 'tool_calls' in m and m.tool_calls | length != 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}{% for c in",
).replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")

S, S2 = ({"role": "system", "content": text} for text in ("be kind", "be brief"))
U, U2 = ({"role": "user", "content": text} for text in ("hi", "go on"))
A, A2 = ({"role": "assistant", "content": text} for text in ("yes", "no"))


@pytest.fixture
def templated(nano: Path) -> Any:
    def with_template(template: str) -> Any:
        tokenizer = load_tokenizer(nano)
        tokenizer.chat_template = template
        return tokenizer

    return with_template


def text_of(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    return str(tokenizer.apply_chat_template(fit_to_template(tokenizer, messages), tokenize=False))


def test_rules_are_what_each_template_takes(templated: Any) -> None:
    assert rules_of(templated(TURNS)) == TemplateRules()
    assert rules_of(templated(FIRST_ONLY)) == TemplateRules(later_system=False)
    assert rules_of(templated(SILENT)) == TemplateRules(later_system=False)
    assert rules_of(templated(ALTERNATE)) == TemplateRules(
        system=False,
        later_system=False,
        user_runs=False,
        assistant_runs=False,
        assistant_first=False,
    )
    assert rules_of(templated(AS_JSON)) == TemplateRules()
    assert rules_of(templated(BY_KEY)) == TemplateRules(any_arguments=False)


@pytest.mark.parametrize(
    ("messages", "plain", "first_only", "alternate"),
    [
        ([S, U], "<system>be kind</><user>hi</>", None, "<user>be kind\n\nhi</>"),
        (
            [S, S2, U],
            "<system>be kind\n\nbe brief</><user>hi</>",
            None,
            "<user>be kind\n\nbe brief\n\nhi</>",
        ),
        (
            [U, S, U2],
            "<user>hi</><system>be kind</><user>go on</>",
            "<user>hi\n\nbe kind</><user>go on</>",
            "<user>hi\n\nbe kind\n\ngo on</>",
        ),
        (
            [S, U, A, S2, U2],
            "<system>be kind</><user>hi</><assistant>yes</><system>be brief</><user>go on</>",
            "<system>be kind</><user>hi</><assistant>yes</><user>be brief\n\ngo on</>",
            "<user>be kind\n\nhi</><assistant>yes</><user>be brief\n\ngo on</>",
        ),
        (
            [U, A, S],
            "<user>hi</><assistant>yes</><system>be kind</>",
            "<user>hi</><assistant>yes</><user>be kind</>",
            "<user>hi</><assistant>yes</><user>be kind</>",
        ),
        (
            [A, U],
            "<assistant>yes</><user>hi</>",
            None,
            "<user></><assistant>yes</><user>hi</>",
        ),
        (
            [U, A, A2, U2],
            "<user>hi</><assistant>yes</><assistant>no</><user>go on</>",
            None,
            "<user>hi</><assistant>yes\n\nno</><user>go on</>",
        ),
        ([S], "<system>be kind</>", None, "<user>be kind</>"),
    ],
)
def test_conversation_is_told_in_a_form_that_the_template_takes(
    templated: Any,
    messages: list[dict[str, Any]],
    plain: str,
    first_only: str | None,
    alternate: str,
) -> None:
    before = copy.deepcopy(messages)
    assert text_of(templated(TURNS), messages) == plain
    assert text_of(templated(FIRST_ONLY), messages) == (first_only or plain)
    assert text_of(templated(ALTERNATE), messages) == alternate
    assert messages == before


@pytest.mark.parametrize("template", [TURNS, FIRST_ONLY, SILENT, ALTERNATE, AS_JSON, BY_KEY])
def test_every_order_of_turns_is_read_and_nothing_is_lost(templated: Any, template: str) -> None:
    tokenizer = templated(template)
    for length in (1, 2, 3, 4):
        for roles in itertools.product(("system", "user", "assistant"), repeat=length):
            turns = [{"role": role, "content": f"w{i}w"} for i, role in enumerate(roles)]
            text = text_of(tokenizer, turns)
            assert all(f"w{i}w" in text for i in range(length)), roles


def test_empty_later_system_says_nothing(templated: Any) -> None:
    empty = {"role": "system", "content": ""}
    assert text_of(templated(FIRST_ONLY), [U, empty, U2]) == "<user>hi</><user>go on</>"


@pytest.mark.parametrize(
    ("written", "as_json", "by_key"),
    [
        ('{"a": 1}', '{"a": 1}', "a=1;"),
        ({"a": 1}, '{"a": 1}', "a=1;"),
        ("", "{}", ""),
        (" ", "{}", ""),
        ("null", "{}", ""),
        (None, "{}", ""),
        (..., "{}", ""),
        ("[]", "{}", ""),
        ('"{\\"a\\": 1}"', '{"a": 1}', "a=1;"),
        ('{"a": 1, "cmd": "ls -', None, 'arguments={"a": 1, "cmd": "ls -;'),
        ("[1]", "[1]", "arguments=[1];"),
        ("5", "5", "arguments=5;"),
        ("true", "true", "arguments=true;"),
        ('"ls"', '"ls"', 'arguments="ls";'),
        ("ls -la", '"ls -la"', "arguments=ls -la;"),
        ("{'a': 1}", None, "arguments={'a': 1};"),
        ('{"a": 1} {"b": 2}', None, 'arguments={"a": 1} {"b": 2};'),
        ('{"a": 1,}', None, 'arguments={"a": 1,};'),
        (r'{"a": "\ud83d"}', '{"a": "\ufffd"}', "a=\ufffd;"),
        (r'{"a": "\ud83d\ude00"}', '{"a": "\U0001f600"}', "a=\U0001f600;"),
        (r'"{\"a\": \"\\udc00\"}"', '{"a": "\ufffd"}', "a=\ufffd;"),
    ],
)
def test_arguments_of_any_kind_in_the_history_are_read(
    templated: Any, written: Any, as_json: str | None, by_key: str
) -> None:
    function = {"name": "look"} | ({} if written is ... else {"arguments": written})
    whole = {"name": "look", "arguments": '{"b": 2}'}
    calls = [
        {"id": f"c{i}", "type": "function", "function": called}
        for i, called in enumerate((function, whole))
    ]
    turns: list[dict[str, Any]] = [
        U,
        {"role": "assistant", "content": "", "tool_calls": calls},
        U2,
    ]
    shown = json.dumps(written) if as_json is None else as_json
    for template, first, second in ((AS_JSON, shown, '{"b": 2}'), (BY_KEY, by_key, "b=2;")):
        text = text_of(templated(template), turns)
        assert f"[look {first}][look {second}]" in text


def test_empty_lists_of_calls_are_as_absent(templated: Any) -> None:
    tokenizer = templated(KEY_IS_THERE)
    for role in ("user", "assistant", "system"):
        turn: dict[str, Any] = {"role": role, "content": "a", "tool_calls": []}
        assert text_of(tokenizer, [turn]) == f"<{role}>a</>"


@pytest.mark.parametrize("template", [TURNS, FIRST_ONLY, ALTERNATE])
def test_a_system_prompt_is_a_head_of_its_own_wherever_it_is_folded(
    templated: Any, template: str
) -> None:
    """What is warmed is what a chat's prompt begins with, also in the user's turn."""
    tokenizer = templated(template)
    system = "be kind and brief " * 10
    chat = render(tokenizer, [{"role": "system", "content": system}, U], {})
    warmed = system_prefix_tokens(tokenizer, system)
    assert chat.system_prefix == len(warmed) > 10
    assert chat.tokens[: chat.system_prefix] == warmed


def test_conversation_that_goes_on_keeps_its_prefix(templated: Any) -> None:
    """A folded turn stays where it was when more turns follow."""
    for template in (FIRST_ONLY, ALTERNATE):
        tokenizer = templated(template)
        turns = [S, U, S2, A, U2, A2, S2, U]
        shorter = [text_of(tokenizer, turns[:end]) for end in (3, 5, 8)]
        longer = text_of(tokenizer, turns)
        assert all(longer.startswith(text) for text in shorter)


def test_template_that_takes_nothing_known_has_the_word(templated: Any) -> None:
    tokenizer = templated("{{ raise_exception('never') }}")
    assert rules_of(tokenizer) == TemplateRules()
    with pytest.raises(InvalidRequest, match="never"):
        render(tokenizer, [U], {})


# --- reasoning of earlier turns -----------------------------------------------------------

THOUGHT = TURNS.replace(
    "{{ m.content }}", "{% if m.NAME %}({{ m.NAME }}){% endif %}{{ m.content }}"
)
IN_CHAIN = (  # as gpt-oss's: beside a call only, and never with words
    "{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}"
    "{% if m.content and m.thinking %}{{ raise_exception('not both') }}{% endif %}"
    "({{ m.thinking or m.content }})[{{ m.tool_calls[0].function.name }}]"
    "{% else %}{{ m.content }}{% endif %}</>{% endfor %}"
)
LOOK: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize(
    "keys",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning_content": "", "reasoning": "hm"},
        {"reasoning_content": None, "reasoning": "hm"},
        {"reasoning": {"effort": "x"}, "thinking": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
    ],
    ids=str,
)
def test_reasoning_reaches_the_template_under_the_name_that_it_reads(
    templated: Any, name: str, keys: dict[str, Any]
) -> None:
    tokenizer = templated(THOUGHT.replace("NAME", name))
    turns = [U, A | keys, U2]
    before = copy.deepcopy(turns)
    assert text_of(tokenizer, turns) == "<user>hi</><assistant>(hm)yes</><user>go on</>"
    assert turns == before


@pytest.mark.parametrize(
    "keys",
    [
        {"reasoning": {"effort": "x"}, "reasoning_details": [{"type": "x"}, "y", {"text": 3}]},
        {"reasoning_content": "", "reasoning": None, "thinking": False},
        {"thinking_blocks": {"a": "b"}, "reasoning_details": "hm"},
    ],
    ids=str,
)
def test_reasoning_that_is_no_text_is_none(templated: Any, keys: dict[str, Any]) -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        template = "{% for m in messages %}<{{ m.role }}>{{ m.NAME or '' }}{% endfor %}"
        text = text_of(templated(template.replace("NAME", name)), [U, A | keys])
        assert text == "<user><assistant>"


def test_keys_of_the_models_own_reach_its_template(templated: Any) -> None:
    """As mlx_lm's server has it: every key of a message goes to the template."""
    template = TURNS.replace("{{ m.content }}", "{{ m.content }}{{ m.citations }}{{ m.weight }}")
    turn = A | {"citations": ["a", "b"], "weight": 0.5}
    assert text_of(templated(template), [U, turn]).endswith("yes['a', 'b']0.5</>")


def test_words_beside_reasoning_that_led_to_a_call_are_not_refused(templated: Any) -> None:
    tokenizer = templated(IN_CHAIN)
    assert not rules_of(tokenizer).words_beside_reasoning
    called = {"role": "assistant", "content": "I look.", "tool_calls": [LOOK]}
    for name in ("reasoning_content", "reasoning", "thinking"):
        text = text_of(tokenizer, [U, called | {name: "hm"}])
        assert text == "<user>hi</><assistant>(hm\n\nI look.)[look]</>"
    assert text_of(tokenizer, [U, called]) == "<user>hi</><assistant>(I look.)[look]</>"
    assert text_of(tokenizer, [U, A | {"thinking": "hm"}]) == "<user>hi</><assistant>yes</>"


def test_turns_in_a_row_keep_the_reasoning_of_each(templated: Any) -> None:
    template = ALTERNATE.replace("{{ m.content }}", "({{ m.thinking }}){{ m.content }}")
    turns = [U, A | {"reasoning": "hm"}, A2 | {"thinking": "oh"}, U2]
    assert "<assistant>(hm\n\noh)yes\n\nno</>" in text_of(templated(template), turns)


# --- calls side by side -------------------------------------------------------------------

ONE_CALL = CALLS.replace(
    "{% for c in",
    "{% if m.tool_calls and m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% for c in",
).replace(" ARGUMENTS", "")
FIRST_CALL = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]").replace(
    " ARGUMENTS", ""
)
SEVERAL = CALLS.replace(" ARGUMENTS", "")


def called(*names: str, **more: Any) -> dict[str, Any]:
    calls = [{"id": n, "type": "function", "function": {"name": n}} for n in names]
    return {"role": "assistant", "content": "So.", "tool_calls": calls} | more


def found(name: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": text}


@pytest.mark.parametrize("template", [ONE_CALL, FIRST_CALL])
def test_calls_side_by_side_are_a_turn_each_where_the_template_knows_one(
    templated: Any, template: str
) -> None:
    tokenizer = templated(template)
    assert not rules_of(tokenizer).several_calls
    turns = [U, called("a", "b"), found("b", "2"), found("a", "1"), found("x", "3"), U2]
    before = copy.deepcopy(turns)
    assert text_of(tokenizer, turns) == (
        "<user>hi</><assistant>So.[a]</><tool>1</><assistant>[b]</><tool>2</><tool>3</>"
        "<user>go on</>"
    )
    assert turns == before
    alone = [U, called("a"), found("a", "1")]
    assert text_of(tokenizer, alone) == "<user>hi</><assistant>So.[a]</><tool>1</>"


def test_calls_side_by_side_stay_where_the_template_shows_them(templated: Any) -> None:
    for template in (SEVERAL, TURNS):
        assert rules_of(templated(template)).several_calls
    text = text_of(templated(SEVERAL), [U, called("a", "b"), found("a", "1"), found("b", "2")])
    assert text == "<user>hi</><assistant>So.[a][b]</><tool>1</><tool>2</>"


def test_reasoning_stays_with_the_first_of_several_calls(templated: Any) -> None:
    template = ONE_CALL.replace("{{ m.content }}", "({{ m.reasoning or '' }}){{ m.content }}")
    turns = [U, called("a", "b", reasoning="hm"), found("a", "1"), found("b", "2")]
    assert "<assistant>(hm)So.[a]</><tool>()1</><assistant>()[b]</>" in text_of(
        templated(template), turns
    )
