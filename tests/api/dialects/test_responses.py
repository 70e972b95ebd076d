"""The dialect of `POST /v1/responses`: a body in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_worker.api.dialects.model_terms import ModelTerms
from mlx_worker.api.dialects.responses.request import ResponsesGenerationRequest, parse
from mlx_worker.config.schema import Defaults
from mlx_worker.errors import InvalidRequest, MissingField, UnsupportedField

USER = {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "wide"}


def asked(**fields: Any) -> ResponsesGenerationRequest:
    return parse(json.dumps({"input": "Hello"} | fields).encode())


def turns(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return asked(input=items, **fields).chats[0].messages


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    return caught.value


def test_input_string_is_a_user_message() -> None:
    assert asked().chats[0].messages == [{"role": "user", "content": "Hello"}]


def test_input_items_become_messages() -> None:
    said = turns(
        {"role": "system", "content": "Be kind."},
        USER,
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "message", "role": "user", "content": "Bye"},
    )
    assert [(message["role"], message["content"]) for message in said] == [
        ("system", "Be kind."),
        ("user", "Hello"),
        ("assistant", "Hi"),
        ("user", "Bye"),
    ]


def test_instructions_precede_and_join_the_system_prompt() -> None:
    said = turns({"role": "developer", "content": "Be kind."}, USER, instructions="Be brief.")
    assert said[0] == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert len(said) == 2


def test_reasoning_text_and_calls_are_one_message() -> None:
    thought = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    said = turns(USER, thought, {"role": "assistant", "content": "I look."}, CALL, OUTPUT)
    assert said[1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"at": 1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "wide"},
    ]


def test_call_output_may_be_parts() -> None:
    parts = [{"type": "input_text", "text": "wide"}, {"type": "input_text", "text": " river"}]
    assert turns(USER, CALL, OUTPUT | {"output": parts})[-1]["content"] == "wide river"


@pytest.mark.parametrize(
    ("output", "told"),
    [({"exit": 1}, '{"exit":1}'), (5, "5")],
    ids=["object", "number"],
)
def test_call_output_may_be_any_json_value(output: Any, told: str) -> None:
    assert turns(USER, CALL, OUTPUT | {"output": output})[-1]["content"] == told


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (None, "{}"),
        ("", ""),
        ("ls -", "ls -"),
        ({"at": 2**70}, '{"at":1180591620717411303424}'),
        ([1], "[1]"),
    ],
    ids=["none", "empty", "no JSON", "object", "list"],
)
def test_call_arguments_may_be_any_value(written: Any, told: str) -> None:
    (call,) = turns(USER, CALL | {"arguments": written}, OUTPUT)[1]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": told}


def test_call_arguments_nested_too_deeply_are_refused() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert refused(input=[CALL | {"arguments": deep}]).param == "input[0].arguments"


def test_flat_tools_are_nested_for_the_template() -> None:
    tool = {"type": "function", "name": "look", "description": "d", "parameters": {"a": 1}}
    chat = asked(tools=[tool | {"strict": True}], parallel_tool_calls=False).chats[0]
    function = {"name": "look", "description": "d", "parameters": {"a": 1}}
    assert chat.tools == [{"type": "function", "function": function}]
    assert chat.one_call
    assert asked(tools=[tool], tool_choice="none").chats[0].tools == []


def test_limits_samplers_and_effort_are_passed_on() -> None:
    chat = asked(
        max_output_tokens=9, temperature=0.5, top_p=0.9, seed=3, reasoning={"effort": "high"}
    ).chats[0]
    assert (chat.max_tokens, chat.sampling.temperature, chat.sampling.top_p) == (9, 0.5, 0.9)
    assert chat.sampling.seed == 3
    assert chat.template_kwargs == {"reasoning_effort": "high"}
    assert asked(reasoning={"effort": "none"}).chats[0].template_kwargs == {
        "enable_thinking": False
    }


def test_model_defaults_apply_to_absent_fields() -> None:
    call = parse(
        b'{"input": "Hello"}', lambda _: ModelTerms(Defaults(temperature=0.5, max_tokens=7))
    )
    assert (call.chats[0].sampling.temperature, call.chats[0].max_tokens) == (0.5, 7)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True, "store": False}, "background"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"include": ["message.output_text.echo"]}, "include"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"input": [{"type": "functoin_call"}]}, "input[0].type"),
        ({"tools": [{"type": "functoin"}]}, "tools[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
    ],
)
def test_unsupported_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert isinstance(error, UnsupportedField)
    assert error.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False, "background": False, "truncation": "disabled"},
        {"include": ["reasoning.encrypted_content"]},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
        {"tool_choice": "auto", "top_logprobs": 0, "previous_response_id": None},
    ],
)
def test_neutral_values_of_unsupported_fields_are_accepted(fields: dict[str, Any]) -> None:
    assert asked(**fields).chats[0].messages


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [CALL | {"call_id": None}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        ({"tools": [{"name": "look"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_malformed_fields_are_refused_with_their_path(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_body_without_input_is_missing_field() -> None:
    with pytest.raises(MissingField, match="input"):
        parse(b"{}")
