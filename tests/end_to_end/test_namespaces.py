"""Tools that are no plain functions, by OpenAI's client, from a real node and a real model.

The model says anything: which tool is called, and how, is what the request requires.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import RunningNode, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    import openai

    Respond = Callable[..., Any]

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {"at": {"enum": ["the river", "the moon"]}},
    "required": ["at"],
    "additionalProperties": False,
}
LOOK: dict[str, Any] = {"type": "function", "name": "look", "parameters": PLACE, "strict": True}
SPACE: dict[str, Any] = {
    "type": "namespace",
    "name": "mcp__demo",
    "description": "Tools of a demo.",
    "tools": [LOOK],
}
DIGITS: dict[str, Any] = {
    "type": "custom",
    "name": "dial",
    "format": {"type": "grammar", "syntax": "regex", "definition": '[0-9]{2}"\\\\'},
}
FILL = "x" * (256 << 10)
"""A description that makes a body large: such a body is parsed in a process of its own."""


pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def node(caller_node: RunningNode) -> RunningNode:
    return caller_node


@pytest.fixture(scope="module")
def respond(client: openai.OpenAI, unthinking: dict[str, Any]) -> Respond:
    """Have a response, streamed or not, as the client's own types have it."""

    def ask(*, stream: bool, **fields: Any) -> Any:
        asked: dict[str, Any] = {"model": "caller", "input": "Hello", "max_output_tokens": 300}
        asked |= fields
        if not stream:
            return client.responses.create(**asked, extra_body=unthinking)
        with client.responses.stream(**asked, extra_body=unthinking) as events:
            return events.get_final_response()

    return ask


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_tool_loop_with_a_namespace(respond: Respond, stream: bool) -> None:
    tools = [{"type": "web_search"}, SPACE]
    first = respond(stream=stream, tools=tools, tool_choice="required")
    call = first.output[-1]
    assert (call.type, call.namespace, call.name) == ("function_call", "mcp__demo", "look")
    assert json.loads(call.arguments)["at"] in PLACE["properties"]["at"]["enum"]
    (warning,) = first.warnings
    assert "web_search" in warning
    history = [
        {"role": "user", "content": "Hello"},
        call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "wide"},
    ]
    second = respond(stream=False, tools=tools, input=history, max_output_tokens=4)
    assert second.usage.input_tokens > first.usage.input_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_tool_loop_with_a_custom_tool_whose_regex_is_kept(respond: Respond, stream: bool) -> None:
    choice = {"type": "custom", "name": "dial"}
    first = respond(stream=stream, tools=[LOOK, DIGITS], tool_choice=choice)
    call = first.output[-1]
    assert (call.type, call.name) == ("custom_tool_call", "dial")
    assert call.input[:2].isdecimal()
    assert call.input[2:] == '"\\'
    history = [
        {"role": "user", "content": "Hello"},
        call.model_dump(exclude_none=True),
        {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "wide"},
    ]
    second = respond(stream=False, tools=[DIGITS], input=history, max_output_tokens=4)
    assert second.usage.input_tokens > 0


def test_a_large_body_keeps_its_names_and_its_warnings(respond: Respond) -> None:
    tools = [{"type": "web_search", "filters": {"fill": FILL}}, SPACE]
    answer = respond(stream=False, tools=tools, tool_choice="required")
    call = answer.output[-1]
    assert (call.namespace, call.name) == ("mcp__demo", "look")
    assert "web_search" in answer.warnings[0]


@pytest.mark.full
def test_what_is_left_out_is_in_a_header_and_in_the_log(node: RunningNode) -> None:
    headers = {"X-Request-Id": "left-out-1"}
    body = {"input": "Hello", "max_output_tokens": 2, "tools": [{"type": "web_search"}]}
    answer = node.ask("/v1/responses", body, headers=headers)
    assert answer.headers["X-Warnings"] == answer.json["warnings"][0]
    assert "X-Warnings" not in node.ask("/v1/responses", {"input": "Hi"}).headers

    def lines() -> list[dict[str, Any]]:
        return [
            line for line in map(json.loads, node.log) if line.get("request_id") == "left-out-1"
        ]

    eventually(lambda: bool(lines()))
    (line,) = lines()
    assert line["warnings"] == answer.json["warnings"][0]
