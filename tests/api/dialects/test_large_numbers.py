"""A number that the pipe to a model cannot carry: refused, rounded, or a text."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from mlx_worker.api.dialects.base import ResponseInfo, Usage
from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.fields import check_encodable
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.api.dialects.responses.response import ResponsesWriter
from mlx_worker.errors import InvalidRequest
from mlx_worker.limits import DEEPEST
from mlx_worker.supervisor.requests.generation import FinishInfo
from mlx_worker.supervisor.requests.output_buffer import OutputDelta


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (2**64, "tools"),
        (
            [{"function": {"parameters": {"maximum": 2**64}}}],
            "tools[0].function.parameters.maximum",
        ),
        ({"a": [1, {}, {"b": {"minimum": -(2**63) - 1}}]}, "tools.a[2].b.minimum"),
    ],
)
def test_integer_beyond_64_bits_is_refused_with_its_path(value: Any, place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_encodable("tools", value)
    assert refused.value.message.startswith(f"{place}: an integer beyond 64 bits")


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), [1e308, {"a": True}]])
def test_integers_of_64_bits_are_encodable(value: Any) -> None:
    check_encodable("tools", value)


LARGE = {"a": [10**30, -(2**63) - 1], "b": 1}
SCHEMA = {"type": "object", "properties": {"a": {"maximum": 18446744073709552000}}}
NAMED = {"name": "f", "parameters": SCHEMA}
USER = {"role": "user", "content": "Hi"}


def _body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def _arguments(call: Any) -> Any:
    (turn,) = [turn for turn in call.chats[0].messages if "tool_calls" in turn]
    return json.loads(turn["tool_calls"][0]["function"]["arguments"])


def test_large_integer_in_an_earlier_call_keeps_its_digits() -> None:
    function = {"name": "f", "arguments": LARGE}
    turn = {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}
    assert _arguments(chat.parse(_body(messages=[USER, turn, USER]))) == LARGE
    used = {"type": "tool_use", "id": "1", "name": "f", "input": LARGE}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}
    turns = [USER, {"role": "assistant", "content": [used]}, result]
    assert _arguments(messages.parse(_body(messages=turns, max_tokens=1))) == LARGE


def test_large_integer_beside_call_arguments_is_refused() -> None:
    call = {"id": "1", "index": 2**64, "function": {"name": "f", "arguments": LARGE}}
    turn = {"role": "assistant", "tool_calls": [call]}
    with pytest.raises(InvalidRequest, match=r"index: an integer beyond 64 bits") as refused:
        chat.parse(_body(messages=[USER, turn, USER]))
    assert refused.value.param == "messages"


@pytest.mark.parametrize("number", [1, 2**64])
def test_deep_nesting_in_an_earlier_call_is_refused(number: int) -> None:
    deep: Any = number
    for _ in range(DEEPEST):
        deep = [deep]
    function = {"name": "f", "arguments": {"a": deep, "b": 2**64}}
    turn = {"role": "assistant", "tool_calls": [{"id": "1", "function": function | {"x": deep}}]}
    with pytest.raises(InvalidRequest, match="nested deeper"):
        chat.parse(_body(messages=[USER, turn, USER]))


def test_encodable_calls_are_passed_on_unchanged() -> None:
    function = {"name": "f", "arguments": {"a": 2**64 - 1}}
    turn = {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}
    made = chat.parse(_body(messages=[USER, turn, USER])).chats[0].messages[1]
    assert made["tool_calls"][0]["function"] == function


@pytest.mark.parametrize(
    "call",
    [
        lambda: chat.parse(_body(messages=[USER], tools=[{"type": "function", "function": NAMED}])),
        lambda: responses.parse(_body(input="Hi", tools=[{"type": "function", **NAMED}])),
        lambda: messages.parse(
            _body(messages=[USER], max_tokens=1, tools=[{"name": "f", "input_schema": SCHEMA}])
        ),
    ],
)
def test_large_bound_in_a_tool_is_rounded(call: Any) -> None:
    tools = call().chats[0].tools
    msgspec.msgpack.encode(tools)
    bound = tools[0]["function"]["parameters"]["properties"]["a"]["maximum"]
    assert bound == float(18446744073709552000)


def test_integer_that_no_double_holds_is_refused() -> None:
    tool = {"type": "function", "function": NAMED | {"parameters": {"maximum": 10**400}}}
    with pytest.raises(InvalidRequest, match="maximum: an integer beyond 64 bits"):
        chat.parse(_body(messages=[USER], tools=[tool]))


def test_large_bound_in_a_tool_is_repeated_exactly() -> None:
    call = responses.parse(_body(input="Hi", tools=[{"type": "function", **NAMED}]))
    answer = ResponsesWriter(call.packed(), ResponseInfo("m", 1, "fp_1"))
    told = answer.full_response([(OutputDelta(["Hi"], []), FinishInfo("stop", 1))], Usage(1, 0, 1))
    assert json.loads(told)["tools"][0]["parameters"] == SCHEMA
