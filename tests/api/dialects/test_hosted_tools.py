"""Tools that a server runs by itself are left out of every dialect's offer, and said so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_worker.api.dialects.base import GenerationRequest
from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.hosted_tools import MAX_NAMED_TYPES, is_hosted
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.errors import InvalidRequest, UnsupportedField

SCHEMA = {"type": "object", "properties": {}}
DIALECTS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "chat": (
        chat.parse,
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"type": "function", "function": {"name": "look", "parameters": SCHEMA}},
    ),
    "responses": (
        responses.parse,
        {"input": "Hello"},
        {"type": "function", "name": "look", "parameters": SCHEMA},
    ),
    "messages": (
        messages.parse,
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"name": "look", "input_schema": SCHEMA},
    ),
}
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def asked(dialect: str, *tools: dict[str, Any], **fields: Any) -> GenerationRequest:
    """A call of a dialect with the dialect's own function `look` and these tools."""
    parse, body, look = DIALECTS[dialect]
    call = parse(json.dumps(body | {"tools": [look, *tools]} | fields).encode())
    assert isinstance(call, GenerationRequest)
    return call


def refused(dialect: str, *tools: dict[str, Any], **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(dialect, *tools, **fields)
    return caught.value


@every_dialect
@pytest.mark.parametrize(
    "kind",
    [
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview_2025_03_11",
        "web_search_20250305",
        "file_search",
        "code_interpreter",
        "computer_use_preview",
        "image_generation",
        "mcp",
        "mcp_toolset",
        "local_shell",
        "tool_search",
        "bash_20250124",
        "text_editor_20250728",
        "computer_20251124",
        "memory_20250818",
        "tool_search_tool_regex_20251119",
        "tool_search_tool_bm25",
        "code_execution_20260521",
        "web_fetch_20260318",
        "computer_toolset_20260801",
    ],
)
def test_hosted_tool_is_left_out_with_a_warning(dialect: str, kind: str) -> None:
    call = asked(dialect, {"type": kind, "name": "secret", "max_uses": 8})
    assert [tool["function"]["name"] for tool in call.chats[0].tools] == ["look"]
    assert call.warnings == [f"tools: left out, because this node runs no hosted tools: {kind}"]


@pytest.mark.parametrize("kind", ["web_searches", "x_web_search", "web_search_5", "function", 7])
def test_type_similar_to_a_hosted_tool_is_not_hosted(kind: Any) -> None:
    assert not is_hosted(kind)


@every_dialect
def test_warning_names_each_type_once_up_to_a_limit(dialect: str) -> None:
    assert asked(dialect).warnings == []
    (warning,) = asked(dialect, *[{"type": "web_search"}] * 3).warnings
    assert warning.count("web_search") == 1
    many = [{"type": f"web_search_{20250000 + i}"} for i in range(3000)]
    (warning,) = asked(dialect, *many).warnings
    assert warning.endswith(f"{3000 - MAX_NAMED_TYPES} more types")


@pytest.mark.parametrize(
    ("dialect", "fields", "named"),
    [
        ("chat", {"web_search_options": {}}, "web_search_options"),
        ("messages", {"mcp_servers": [{"type": "url", "url": "https://x"}]}, "mcp_servers"),
    ],
)
def test_field_that_asks_for_a_hosted_tool_is_left_out(
    dialect: str, fields: dict[str, Any], named: str
) -> None:
    (warning,) = asked(dialect, **fields).warnings
    assert warning.endswith(f": {named}")


@pytest.mark.parametrize(
    ("dialect", "choice"),
    [
        ("chat", {"type": "web_search"}),
        ("responses", {"type": "web_search"}),
        ("messages", {"type": "tool", "name": "web_search"}),
    ],
)
def test_tool_choice_of_a_hosted_tool_is_refused(dialect: str, choice: Any) -> None:
    hosted = {"type": "web_search", "name": "web_search"}
    assert asked(dialect, hosted, tool_choice=None).chats
    error = refused(dialect, hosted, tool_choice=choice)
    assert isinstance(error, UnsupportedField)
    assert error.param == "tool_choice"
    assert "'web_search' is a hosted tool" in error.message


@pytest.mark.parametrize(
    ("dialect", "choice"),
    [("chat", "required"), ("responses", "required"), ("messages", {"type": "any"})],
)
def test_tool_choice_required_of_hosted_tools_alone_is_refused(dialect: str, choice: Any) -> None:
    error = refused(dialect, tools=[{"type": "web_search"}], tool_choice=choice)
    assert isinstance(error, UnsupportedField)
    assert (error.param, "web_search" in error.message) == ("tool_choice", True)
    forced = asked(dialect, {"type": "web_search"}, tool_choice=choice).chats[0].constraint
    assert forced is not None


@every_dialect
def test_unknown_tool_type_names_the_known_types(dialect: str) -> None:
    known = {
        "chat": "'function'",
        "responses": "'function', 'custom', 'namespace'",
        "messages": "'custom'",
    }
    error = refused(dialect, {"type": "x", "name": "a"})
    assert isinstance(error, UnsupportedField)
    assert error.param == "tools[1].type"
    assert error.message == f"tools[1].type: 'x' is not one of {known[dialect]}"


# --- chat: allowed tools ------------------------------------------------------------------


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_allowed_tools_of_a_chat_limit_the_offer() -> None:
    tools = [function("hear"), {"type": "web_search"}]
    allowed = {"mode": "auto", "tools": [function("hear"), {"type": "web_search"}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    told = asked("chat", *tools, tool_choice=choice).chats[0]
    assert [tool["function"]["name"] for tool in told.tools] == ["hear"]
    assert (told.constraint, told.one_call) == (None, False)
    required = {**choice, "allowed_tools": {**allowed, "mode": "required"}}
    told = asked("chat", *tools, tool_choice=required).chats[0]
    assert told.constraint is not None
    assert not told.one_call


@pytest.mark.parametrize(
    ("allowed", "param"),
    [
        ({"mode": "auto", "tools": [function("nope")]}, "tool_choice.allowed_tools.tools[0]"),
        ({"mode": "some", "tools": []}, "tool_choice.allowed_tools.mode"),
        ({}, "tool_choice.allowed_tools.mode"),
        ({"mode": "required", "tools": [{"type": "web_search"}]}, "tool_choice"),
        ({"mode": "required", "tools": []}, "tool_choice"),
    ],
)
def test_malformed_allowed_tools_are_refused(allowed: Any, param: str) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert refused("chat", tool_choice=choice).param == param


# --- messages: blocks of hosted tools -----------------------------------------------------

USE = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "secret"}}
RESULT = {"type": "web_search_tool_result", "tool_use_id": "s1"}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "web_search_result", "title": "t", "url": "u", "encrypted_content": "x"}],
        {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"},
    ],
    ids=["results", "an error"],
)
def test_blocks_of_hosted_tools_are_left_out_with_a_warning(content: Any) -> None:
    said = [USE, RESULT | {"content": content}, {"type": "text", "text": "So."}]
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And?"},
    ]
    call = asked("messages", messages=turns)
    assert [turn["content"] for turn in call.chats[0].messages] == ["Hello", "So.", "And?"]
    (warning,) = call.warnings
    assert warning.startswith("messages: ")
    assert warning.endswith(": server_tool_use, web_search_tool_result")


@pytest.mark.parametrize(("summary", "said"), [("They met.", "They met.\n\nSo."), (None, "So.")])
def test_compaction_summary_stays_in_the_conversation(summary: Any, said: str) -> None:
    blocks = [{"type": "compaction", "content": summary}, {"type": "text", "text": "So."}]
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": "And?"},
    ]
    call = asked("messages", messages=turns)
    assert call.chats[0].messages[1]["content"] == said
    assert call.warnings == []


def test_calls_by_another_server_stay_in_the_conversation() -> None:
    use = {
        "type": "mcp_tool_use",
        "id": "m1",
        "name": "ask",
        "server_name": "wiki",
        "input": {"q": 1},
    }
    result = {
        "type": "mcp_tool_result",
        "tool_use_id": "m1",
        "content": [{"type": "text", "text": "so"}],
    }
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [use, result, {"type": "text", "text": "So."}]},
        {"role": "user", "content": "And?"},
    ]
    call = asked("messages", messages=turns)
    _, called, told, said, _ = call.chats[0].messages
    assert called["tool_calls"][0]["function"] == {"name": "wiki__ask", "arguments": {"q": 1}}
    assert told == {"role": "tool", "tool_call_id": "m1", "content": "so"}
    assert said["content"] == "So."
    assert call.warnings == []
