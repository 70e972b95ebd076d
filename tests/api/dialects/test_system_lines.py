"""Lines at the head of a system prompt that a rule drops, in every dialect and form of a prompt."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from mlx_worker.api.dialects.model_terms import ModelSettings, ModelTerms
from mlx_worker.api.dialects.system_lines import drop_head_lines
from mlx_worker.api.parsing.body_kinds import CountBody, GenerationBody, PromptToWarm, parse
from tests.call_counter import calls

BILLING = "x-anthropic-billing-header: cc_version=1; cch=0a1b2;"
RULE = ("x-anthropic-billing-header:*", "today")
HELLO = {"role": "user", "content": "hello"}


class Terms:
    """One model whose configuration has this rule."""

    def __init__(self, *rule: str, system_prompt: str | None = None) -> None:
        self._terms = ModelTerms(settings=ModelSettings(system_prompt, {}, (), {}, None, rule))

    def terms(self, _name: str | None) -> ModelTerms:
        return self._terms


def unpacked(part: Any) -> Any:
    """Return a packed part of a request."""
    return msgspec.msgpack.decode(part)


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def parts(*texts: str, kind: str = "text") -> list[dict[str, str]]:
    return [{"type": kind, "text": text} for text in texts]


@pytest.mark.parametrize(
    ("text", "rest", "dropped"),
    [
        (f"{BILLING}\nBe kind.", "Be kind.", 1),
        (f"{BILLING}\n\n\nBe kind.", "Be kind.", 1),
        (f"{BILLING}\r\n\r\nBe kind.", "Be kind.", 1),
        (f"{BILLING}\n\ntoday\nBe kind.", "Be kind.", 2),
        (f"today\n{BILLING}\nBe kind.\n{BILLING}", f"Be kind.\n{BILLING}", 2),
        ("today is fine", "today is fine", 0),
        (" today\nBe kind.", " today\nBe kind.", 0),
        (f"Be kind.\n{BILLING}", f"Be kind.\n{BILLING}", 0),
        ("\ntoday", "\ntoday", 0),
    ],
)
def test_drop_head_lines_only_first_lines_that_fit_are_dropped(
    text: str, rest: str, dropped: int
) -> None:
    assert drop_head_lines([system(text), HELLO], RULE) == ([system(rest), HELLO], dropped)


@pytest.mark.parametrize("text", [BILLING, f"{BILLING}\n", "today", f"{BILLING}\ntoday\n\n"])
def test_drop_head_lines_message_without_other_lines_is_dropped(text: str) -> None:
    messages, _ = drop_head_lines([system(text), system("Be kind."), HELLO], RULE)
    assert messages == [system("Be kind."), HELLO]


def test_drop_head_lines_later_system_messages_are_kept() -> None:
    messages = [HELLO, system(BILLING), HELLO]
    assert drop_head_lines(messages, RULE) == (messages, 0)


def test_drop_head_lines_without_a_rule_drops_none() -> None:
    messages = [system(BILLING), HELLO]
    assert drop_head_lines(messages, ()) == (messages, 0)


def test_drop_head_lines_cost_is_one_walk_over_the_lines() -> None:
    def walked(lines: int) -> int:
        return calls(lambda: drop_head_lines([system(f"{BILLING}\n" * lines)], RULE)).total()

    assert walked(2000) < 2.1 * walked(1000)


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"messages": [system(f"{BILLING}\nBe kind."), HELLO]}),
    ("chat", {"messages": [system(BILLING), system("Be kind."), HELLO]}),
    ("chat", {"messages": [{"role": "developer", "content": f"{BILLING}\nBe kind."}, HELLO]}),
    ("chat", {"messages": [{"role": "system", "content": parts(f"{BILLING}\nBe kind.")}, HELLO]}),
    ("messages", {"system": f"{BILLING}\nBe kind.", "messages": [HELLO]}),
    ("messages", {"system": parts(BILLING, "Be kind."), "messages": [HELLO]}),
    ("messages", {"system": parts(f"{BILLING}\nBe kind."), "messages": [HELLO]}),
    ("responses", {"instructions": f"{BILLING}\nBe kind.", "input": "hello"}),
    ("responses", {"instructions": BILLING, "input": [system("Be kind."), HELLO]}),
    (
        "responses",
        {
            "input": [
                {"role": "developer", "content": parts(BILLING, "\nBe kind.", kind="input_text")},
                HELLO,
            ]
        },
    ),
]


@pytest.mark.parametrize(("dialect", "body"), FORMS)
def test_rule_drops_the_line_in_every_dialect_and_form(dialect: Any, body: dict[str, Any]) -> None:
    data = json.dumps(body | {"max_tokens": 9} if dialect == "messages" else body).encode()
    parsed = parse(GenerationBody(dialect), data, Terms(*RULE))
    messages = unpacked(parsed.chats[0].messages)
    assert messages == [system("Be kind."), HELLO]
    assert parsed.dropped_lines == 1
    kept = parse(GenerationBody(dialect), data, Terms())
    assert "billing" in str(unpacked(kept.chats[0].messages))
    assert kept.dropped_lines == 0


def test_rule_is_applied_to_what_is_counted_and_warmed() -> None:
    terms = Terms(*RULE)
    body = {"system": f"{BILLING}\nBe kind.", "messages": [HELLO]}
    _, chat = parse(CountBody(), json.dumps(body).encode(), terms)
    assert "billing" not in str(unpacked(chat.messages))
    warmed = json.dumps({"system_prompt": f"{BILLING}\nBe kind."}).encode()
    assert parse(PromptToWarm(), warmed, terms) == (None, "Be kind.")


def test_rule_before_a_configured_system_prompt_decides_whether_there_is_one() -> None:
    terms = Terms(*RULE, system_prompt="Be brief.")
    data = json.dumps({"messages": [system(BILLING), HELLO]}).encode()
    parsed = parse(GenerationBody("chat"), data, terms)
    assert unpacked(parsed.chats[0].messages) == [system("Be brief."), HELLO]


def test_rule_of_a_raw_prompt_drops_nothing() -> None:
    data = json.dumps({"prompt": f"{BILLING}\nhello"}).encode()
    parsed = parse(GenerationBody("completions"), data, Terms(*RULE))
    assert "billing" in unpacked(parsed.chats[0].prompt)
    assert parsed.dropped_lines == 0
