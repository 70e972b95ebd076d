"""Tools and calls on their way into a prompt, through the model's own template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

from mlx_worker.engine.prompt import render
from mlx_worker.errors import InvalidRequest, UnsupportedField

if TYPE_CHECKING:
    from pathlib import Path

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
WALK = {"type": "function", "function": {"name": "walk", "parameters": {"b": 1, "a": 2}}}
HELLO = [{"role": "user", "content": "Hello"}]
SYSTEM = [{"role": "system", "content": "You are an old river."}]


def text_of(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens))


def called(arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    answer = {"role": "tool", "content": "seen", "tool_call_id": "1"}
    return [*HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}, answer]


def test_tools_are_told_as_mlx_lm_tells_them(tokenizer: Any) -> None:
    chat = [*SYSTEM, *HELLO]
    prompt = render(tokenizer, chat, {}, [LOOK, WALK])
    assert prompt.tokens == tokenizer.apply_chat_template(
        chat, tools=[LOOK, WALK], add_generation_prompt=True
    )


@pytest.mark.parametrize("system", [SYSTEM, []], ids=["a system prompt", "none"])
def test_tools_are_part_of_the_head(tokenizer: Any, system: list[dict[str, Any]]) -> None:
    first, second = (
        render(tokenizer, [*system, {"role": "user", "content": text}], {}, [LOOK])
        for text in ("Hello", "Good day")
    )
    head = text_of(tokenizer, first.tokens[: first.system_prefix])
    assert '"name": "look"' in head
    assert head.endswith("<|im_start|>user\n")
    assert second.tokens[: second.system_prefix] == first.tokens[: first.system_prefix]
    other = render(tokenizer, [*system, *HELLO], {}, [WALK])
    assert other.tokens[: other.system_prefix] != first.tokens[: first.system_prefix]


@pytest.mark.parametrize("arguments", ['{"at": ["東", 1.5, null]}', {"at": ["東", 1.5, None]}])
def test_the_arguments_of_a_call_reach_the_template_as_an_object(
    tokenizer: Any, arguments: Any
) -> None:
    text = text_of(tokenizer, render(tokenizer, called(arguments), {}, [LOOK]).tokens)
    assert '{"name": "look", "arguments": {"at": ["東", 1.5, null]}}' in text


def test_a_call_without_arguments_has_none(tokenizer: Any) -> None:
    text = text_of(tokenizer, render(tokenizer, called(""), {}, [LOOK]).tokens)
    assert '{"name": "look", "arguments": {}}' in text


def test_a_call_that_went_wrong_stays_in_the_chat_as_it_was(tokenizer: Any) -> None:
    text = text_of(tokenizer, render(tokenizer, called('{"at": '), {}, [LOOK]).tokens)
    assert '"arguments": "{\\"at\\": "' in text


def test_a_chat_is_left_as_it_was_given(tokenizer: Any) -> None:
    chat = called("{}")
    render(tokenizer, chat, {}, [LOOK])
    assert chat == called("{}")


def test_tools_for_a_model_that_cannot_call_are_refused(nano: Path) -> None:
    with pytest.raises(UnsupportedField) as refused:
        render(load_tokenizer(nano), HELLO, {}, [LOOK])
    assert refused.value.param == "tools"


def test_tools_that_the_template_does_not_show_are_refused(caller: Path) -> None:
    """It knows how to call, but the model would never hear of these."""
    tokenizer = load_tokenizer(caller)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<tool_call>{% endfor %}"
    with pytest.raises(UnsupportedField, match="tools"):
        render(tokenizer, HELLO, {}, [LOOK])


def test_tools_are_not_the_templates_to_be_told(tokenizer: Any) -> None:
    with pytest.raises(InvalidRequest, match="'tools'"):
        render(tokenizer, HELLO, {"tools": [LOOK]})


# --- where the answer begins ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chat", "kwargs", "state"),
    [
        pytest.param(HELLO, {}, "reasoning", id="the template opens it"),
        pytest.param(HELLO, {"enable_thinking": False}, "normal", id="the template does not"),
        pytest.param(
            [{"role": "user", "content": "What is <think>?"}],
            {"enable_thinking": False},
            "normal",
            id="the user speaks of it",
        ),
        pytest.param(
            [*HELLO, {"role": "assistant", "content": "<think>a</think>b"}, *HELLO],
            {"enable_thinking": False},
            "normal",
            id="an earlier answer reasoned",
        ),
        pytest.param(
            [{"role": "user", "content": "What is </think>?"}],
            {},
            "reasoning",
            id="the user ends what nobody began",
        ),
    ],
)
def test_an_answer_begins_where_the_prompt_leaves_it(
    tokenizer: Any, chat: list[dict[str, Any]], kwargs: dict[str, Any], state: str
) -> None:
    assert render(tokenizer, chat, kwargs).state == state


def test_a_model_that_does_not_reason_begins_with_content(nano: Path) -> None:
    assert render(load_tokenizer(nano), HELLO, {}).state == "normal"
