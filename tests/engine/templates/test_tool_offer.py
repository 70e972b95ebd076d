"""Tools for a template that has no tool calls: what it is shown, and who may be left to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

from mlx_worker.bench.synthetic.tokenizer import CHAT_TEMPLATE
from mlx_worker.engine.structured.compiler import ConstraintCompiler
from mlx_worker.engine.templates.tool_offer import LEFT_OUT, ToolOffers, calls_as_text
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.wire.output import ToolCall
from mlx_worker.wire.request import ChatRequest, JsonSchemaConstraint, Sampling, ToolCallConstraint
from tests.engine.text_harness import by_bytes, collect_spans, stream

if TYPE_CHECKING:
    from pathlib import Path

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
HELLO = {"role": "user", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be kind."}
NO_SYSTEM = (
    "{%- if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{%- endif %}"
    + CHAT_TEMPLATE
)
SILENT_SYSTEM = (
    "{%- for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{%- endfor %}"
)
ALTERNATING = (
    "{%- for m in messages %}"
    "{%- if m.role not in ['user', 'assistant', 'system'] %}{{ raise_exception(m.role) }}"
    "{%- endif %}"
    "{%- if not loop.first and m.role == loop.previtem.role %}{{ raise_exception('twice') }}"
    "{%- endif %}[{{ m.role }}]{{ m.content }}{%- endfor %}"
)


def with_template(folder: Path, template: str) -> Any:
    return load_tokenizer(folder, {"chat_template": template})


def chat(*messages: dict[str, Any], tools: Any = (LOOK,), **more: Any) -> ChatRequest:
    return ChatRequest(list(messages), Sampling(1), tools=list(tools), **more)


def text_of(tokenizer: Any, mode: Any, asked: ChatRequest) -> str:
    offer = ToolOffers(tokenizer, mode).adapt(asked)
    return str(tokenizer.decode(offer.prompt(tokenizer).tokens))


def called(*arguments: Any) -> list[dict[str, Any]]:
    calls = [
        {"id": str(i), "function": {"name": "look", "arguments": written}}
        for i, written in enumerate(arguments)
    ]
    results = [
        {"role": "tool", "tool_call_id": str(i), "content": f"seen {i}"}
        for i in range(len(arguments))
    ]
    return [HELLO, {"role": "assistant", "content": "", "tool_calls": calls}, *results]


@pytest.mark.parametrize("mode", ["refuse", "ignore", "prompt"])
def test_a_template_with_tool_calls_is_left_to_itself(tokenizer: Any, mode: Any) -> None:
    asked = chat(*called('{"at": "home"}'))
    offer = ToolOffers(tokenizer, mode).adapt(asked)
    assert offer.request is offer.shown is asked
    assert offer.notice == ""


def test_raw_prompts_have_no_tools_in_any_mode(caller: Path) -> None:
    asked = chat(prompt="Hello", tools=())
    modes: tuple[Any, ...] = ("refuse", "ignore", "prompt")
    for mode in modes:
        tokenizer = with_template(caller, CHAT_TEMPLATE)
        offer = ToolOffers(tokenizer, mode).adapt(asked)
        assert offer.shown is asked
        assert offer.prompt(tokenizer).system == ""


def test_tools_are_described_behind_the_system_prompt(caller: Path) -> None:
    tokenizer = with_template(caller, CHAT_TEMPLATE)
    text = text_of(tokenizer, "prompt", chat(SYSTEM, HELLO))
    assert "Be kind.\n\nYou have tools." in text
    assert json.dumps(LOOK) in text
    prompt = ToolOffers(tokenizer, "prompt").adapt(chat(SYSTEM, HELLO)).prompt(tokenizer)
    assert prompt.system == "Be kind.", "reports speak of the caller's own system prompt"
    assert "</tool_response>" in tokenizer.decode(prompt.tokens[: prompt.system_prefix])


@pytest.mark.parametrize("template", [NO_SYSTEM, SILENT_SYSTEM], ids=["refused", "dropped"])
def test_a_template_without_a_system_role_gets_them_in_the_first_turn(
    caller: Path, template: str
) -> None:
    text = text_of(with_template(caller, template), "prompt", chat(HELLO))
    assert "answer without a call.\n\nHello" in text


def test_nothing_is_described_where_nothing_is_offered(caller: Path) -> None:
    tokenizer = with_template(caller, CHAT_TEMPLATE)
    asked = chat(SYSTEM, HELLO, tools=())
    assert "tools" not in text_of(tokenizer, "prompt", asked)
    assert ToolOffers(tokenizer, "ignore").adapt(asked).notice == ""


@pytest.mark.parametrize("mode", ["ignore", "prompt"])
@pytest.mark.parametrize("tools", [(), (LOOK,)], ids=["no tools", "tools"])
def test_calls_and_results_alternate_as_turns_of_text(caller: Path, mode: Any, tools: Any) -> None:
    tokenizer = with_template(caller, ALTERNATING)
    asked = chat(
        *called('{"at": "a"}', "not JSON"), {"role": "user", "content": "Well?"}, tools=tools
    )
    text = text_of(tokenizer, mode, asked)
    assert text.endswith(
        '[assistant]<tool_call>\n{"name": "look", "arguments": {"at": "a"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "look", "arguments": "not JSON"}\n</tool_call>'
        "[user]<tool_response>\nseen 0\n</tool_response>\n<tool_response>\nseen 1\n</tool_response>"
        "\n\nWell?"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "{}"),
        (None, "{}"),
        ({"a": 1}, '{"a": 1}'),
        ("[1]", "[1]"),
        ("null", "null"),
        ('{"a": ', '"{\\"a\\": "'),
        ('"é"', '"é"'),
    ],
)
def test_whatever_a_model_wrote_as_arguments_can_be_told_again(arguments: Any, told: str) -> None:
    _, turn, _ = calls_as_text(called(arguments))
    assert f'"arguments": {told}}}' in turn["content"]
    assert "tool_calls" not in turn


@pytest.mark.parametrize("call", [{}, {"function": None}, {"function": {}}, {"function": "look"}])
def test_a_call_of_no_shape_is_told_too(call: dict[str, Any]) -> None:
    (turn,) = calls_as_text([{"role": "assistant", "content": "Hm.", "tool_calls": [call]}])
    assert turn["content"].startswith("Hm.\n<tool_call>")


@pytest.mark.parametrize("calls", [[], None])
def test_no_calls_are_none(calls: Any) -> None:
    (turn,) = calls_as_text([{"role": "assistant", "content": " Hm.", "tool_calls": calls}])
    assert turn == {"role": "assistant", "content": " Hm."}


def test_calls_of_a_prompted_model_are_read_however_tokens_cut_them(caller: Path) -> None:
    tokenizer = with_template(caller, CHAT_TEMPLATE)
    assert not tokenizer.has_tool_calling
    ToolOffers(tokenizer, "prompt")
    said = collect_spans(
        stream(tokenizer),
        by_bytes(
            tokenizer, 'Well. <tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
        ),
    )
    text, call = said.spans
    assert text == "Well. "
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments) == ("look", '{"at": 1}')


def test_a_call_can_be_required_of_a_prompted_model_only(caller: Path) -> None:
    asked = chat(HELLO, constraint=ToolCallConstraint(["look"], "tool_choice"))
    with pytest.raises(UnsupportedField, match=r"^tool_choice: "):
        ToolOffers(with_template(caller, CHAT_TEMPLATE), "ignore").adapt(asked)
    tokenizer = with_template(caller, CHAT_TEMPLATE)
    offer = ToolOffers(tokenizer, "prompt").adapt(asked)
    assert ConstraintCompiler(tokenizer).compile(offer.request, offer.prompt(tokenizer)) is not None


def test_a_shape_is_kept_where_tools_are_left_out(caller: Path) -> None:
    tokenizer = with_template(caller, CHAT_TEMPLATE)
    shape = JsonSchemaConstraint('{"type": "object"}', "response_format")
    offer = ToolOffers(tokenizer, "ignore").adapt(chat(HELLO, constraint=shape))
    assert (offer.request.tools, offer.notice) == ([], LEFT_OUT)
    assert ConstraintCompiler(tokenizer).compile(offer.request, offer.prompt(tokenizer)) is not None


def test_a_model_without_a_template_is_refused_as_ever(caller: Path) -> None:
    tokenizer = load_tokenizer(caller)
    tokenizer.has_chat_template = False
    offer = ToolOffers(tokenizer, "prompt").adapt(chat(HELLO))
    with pytest.raises(InvalidRequest, match="no chat template"):
        offer.prompt(tokenizer)
