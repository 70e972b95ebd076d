"""The dialect of `POST /v1/messages`: a body in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.api.dialects.messages.request import parse, parse_count_body
from mlx_worker.errors import InvalidRequest, MissingField, UnsupportedField

if TYPE_CHECKING:
    from mlx_worker.api.dialects.base import GenerationRequest

USER = {"role": "user", "content": "Hello"}
USE = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": [1, None]}}


def asked(**fields: Any) -> GenerationRequest:
    return parse(json.dumps({"messages": [USER], "max_tokens": 9} | fields).encode())


def turns(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return asked(messages=messages, **fields).chats[0].messages


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": blocks}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    return caught.value


def test_system_prompt_is_the_first_message_in_paragraphs() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    said = turns(user(text("a"), text("b", **cached)), system=[text("one", **cached), text("two")])
    assert said == [
        {"role": "system", "content": "one\n\ntwo"},
        {"role": "user", "content": "a\n\nb"},
    ]
    assert turns(USER, system="Be kind.")[0] == {"role": "system", "content": "Be kind."}


A = {"role": "user", "content": "a"}
B = {"role": "user", "content": "b"}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "wide"}
USED = {"role": "assistant", "content": [USE]}


@pytest.mark.parametrize(
    ("several", "one"),
    [
        ([A, B], [user(text("a"), text("b"))]),
        ([user(text("a")), B], [user(text("a"), text("b"))]),
        ([A, user(text("b", cache_control={"type": "ephemeral"}))], [user(text("a"), text("b"))]),
        ([A, B, A], [user(text("a"), text("b"), text("a"))]),
        ([A, USED, user(RESULT), B], [A, USED, user(RESULT, text("b"))]),
        ([A, USED, B, user(RESULT)], [A, USED, user(RESULT, text("b"))]),
        ([A, USED, user(RESULT, text("a")), B], [A, USED, user(RESULT, text("a"), text("b"))]),
    ],
)
def test_successive_user_messages_are_joined(
    several: list[dict[str, Any]], one: list[dict[str, Any]]
) -> None:
    assert turns(*several) == turns(*one)
    body = json.dumps({"messages": several}).encode()
    assert parse_count_body(body)[1].messages == turns(*one)


def test_successive_assistant_messages_are_joined() -> None:
    first = {"role": "assistant", "content": "x"}
    several = turns(A, first, {"role": "assistant", "content": [text("y"), USE]}, user(RESULT), B)
    one = {"role": "assistant", "content": [text("x"), text("y"), USE]}
    assert several == turns(A, one, user(RESULT, text("b")))


def test_system_message_separates_user_messages() -> None:
    system = {"role": "system", "content": "be kind"}
    assert turns(A, B, system, system, A, B) == [
        {"role": "user", "content": "a\n\nb"},
        {"role": "system", "content": "be kind\n\nbe kind"},
        {"role": "user", "content": "a\n\nb"},
    ]


def test_reasoning_text_and_calls_are_one_message() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [text("wide")]}
    said = turns(
        USER,
        {"role": "assistant", "content": [thought, hidden, text("I look."), USE]},
        user(result | {"is_error": False}, text("And?")),
    )
    assert said[1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "look", "arguments": {"at": [1, None]}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "wide"},
        {"role": "user", "content": "And?"},
    ]


def test_tools_become_functions_for_the_template() -> None:
    tool = {"name": "look", "description": "d", "input_schema": {"type": "object"}}
    chat = asked(
        tools=[tool | {"cache_control": {"type": "ephemeral"}}],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    ).chats[0]
    function = {"name": "look", "description": "d", "parameters": {"type": "object"}}
    assert chat.tools == [{"type": "function", "function": function}]
    assert chat.one_call
    assert asked(tools=[tool], tool_choice={"type": "none"}).chats[0].tools == []


def test_stop_sequences_are_bounded_by_their_bytes() -> None:
    assert len(asked(stop_sequences=["word"] * 400).chats[0].stop) == 400
    assert refused(stop_sequences=["x" * 1000] * 17).param == "stop_sequences"


def test_limits_samplers_and_stop_sequences_are_passed_on() -> None:
    chat = asked(temperature=0.5, top_p=0.9, top_k=4, stop_sequences=["a", "b"]).chats[0]
    assert chat.max_tokens == 9
    assert (chat.sampling.temperature, chat.sampling.top_p, chat.sampling.top_k) == (0.5, 0.9, 4)
    assert chat.stop == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"enable_thinking": True}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
    ],
)
def test_thinking_sets_the_template_switch(fields: dict[str, Any], told: dict[str, Any]) -> None:
    assert asked(**fields).chats[0].template_kwargs == told


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"container": "c"}, "container"),
        ({"tools": [{"type": "functoin", "name": "look"}]}, "tools[0].type"),
        ({"messages": [user({"type": "image", "source": {}})]}, "messages[0].content[0]"),
        ({"messages": [user({"type": "document"})]}, "messages[0].content[0]"),
        ({"messages": [user(USE)]}, "messages[0].content[0]"),
        ({"system": [{"type": "image"}]}, "system[0]"),
    ],
)
def test_unsupported_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert isinstance(error, UnsupportedField)
    assert error.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user({"type": "tool_result"})]}, "messages[0].content[0].tool_use_id"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_malformed_fields_are_refused_with_their_path(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_body_without_messages_is_missing_field() -> None:
    with pytest.raises(MissingField, match="messages"):
        parse(b"{}")


def test_count_body_may_end_with_an_assistant_message() -> None:
    body = {"model": "m", "messages": [USER, {"role": "assistant", "content": "I am"}]}
    name, chat = parse_count_body(json.dumps(body).encode())
    assert name == "m"
    assert [turn["role"] for turn in chat.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("written", "told"),
    [(None, {}), ([1], "[1]"), ('{"at": 1', '{"at": 1'), (5, "5")],
    ids=["none", "list", "text", "number"],
)
def test_earlier_call_input_may_be_any_value(written: Any, told: Any) -> None:
    said = turns(USER, {"role": "assistant", "content": [USE | {"input": written}]}, user(RESULT))
    assert said[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": told}


def test_earlier_call_input_nested_too_deeply_is_refused() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    block = USE | {"input": deep}
    error = refused(messages=[USER, {"role": "assistant", "content": [block]}, user(RESULT)])
    assert error.param == "messages[1].content[0].input"
