"""Reasoning, calls and their ends: told alike by every dialect, streamed and whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.api.dialects import base
from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.chat.response import ChatWriter
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.messages.response import MessagesWriter
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.api.dialects.responses.response import ResponsesWriter
from mlx_worker.supervisor.requests.generation import FinishInfo
from mlx_worker.supervisor.requests.output_buffer import OutputDelta, delta_of
from mlx_worker.wire.output import (
    FinishReason,
    InvalidToolCall,
    Notice,
    ReasoningText,
    Span,
    ToolCall,
)
from tests.dialects import (
    CHAT,
    CHATS,
    MESSAGES,
    RESPONSES,
    Dialect,
    ReceivedAnswer,
    Usage,
)
from tests.sse import events_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.api.dialects.base import ResponseWriter

INFO = base.ResponseInfo("m", 1, "fp_1")
MADE: dict[Dialect, Callable[[bytes], ResponseWriter]] = {
    CHAT: lambda body: ChatWriter(chat.parse(body), INFO),
    RESPONSES: lambda body: ResponsesWriter(responses.parse(body), INFO),
    MESSAGES: lambda body: MessagesWriter(messages.parse(body), INFO),
}
READ = base.Usage(prompt=100, cached=64)
USED = base.Usage(prompt=100, cached=64, completion=7, reasoning=3)
USAGE = Usage(100, 64, 7)

RIVER = ToolCall("call_1", "look", '{"at": "東京"}')
WALK = ToolCall("call_2", "walk", "{}")
BROKEN = InvalidToolCall('{"name": ', "not a tool call: the text contains no call")

every_chat = pytest.mark.parametrize("dialect", CHATS, ids=repr)


def both_ways(
    dialect: Dialect, pieces: list[list[Span]], ending: FinishInfo
) -> tuple[ReceivedAnswer, ReceivedAnswer]:
    """The same pieces, streamed and whole."""
    writer = MADE[dialect](json.dumps(dialect.body("hello", stream=True)).encode())
    stream = writer.start(READ)
    stream += b"".join(writer.delta(delta_of(spans, []), 0) for spans in pieces)
    stream += writer.finish([ending], USED)
    writer = MADE[dialect](json.dumps(dialect.body("hello")).encode())
    piece = delta_of([span for spans in pieces for span in spans], [])
    whole = writer.full_response([(piece, ending)], USED)
    return dialect.read_stream(events_of(stream)), dialect.read_full(json.loads(whole))


CASES: dict[str, tuple[list[list[Span]], FinishReason, ReceivedAnswer]] = {
    "text": ([["Hel"], ["lo"]], "stop", ReceivedAnswer("Hello", finish="stop")),
    "nothing": ([], "stop", ReceivedAnswer(finish="stop")),
    "cut": ([["Hel"]], "length", ReceivedAnswer("Hel", finish="length")),
    "reasoning then text": (
        [[ReasoningText("hm")], [ReasoningText(", well"), "So."], [" Yes."]],
        "stop",
        ReceivedAnswer("So. Yes.", "hm, well", finish="stop"),
    ),
    "cut in reasoning": (
        [[ReasoningText("hm")]],
        "length",
        ReceivedAnswer("", "hm", finish="length"),
    ),
    "two calls": (
        [["Let me see."], [RIVER, WALK]],
        "tool_calls",
        ReceivedAnswer(
            "Let me see.",
            calls=[("call_1", "look", {"at": "東京"}), ("call_2", "walk", {})],
            finish="tool_calls",
        ),
    ),
    "reasoning, text, a call, text": (
        [[ReasoningText("hm"), "I look: "], [RIVER, "Done."]],
        "tool_calls",
        ReceivedAnswer("I look: Done.", "hm", [("call_1", "look", {"at": "東京"})], "tool_calls"),
    ),
    "a call that is none": (
        [["I look: "], [BROKEN]],
        "stop",
        ReceivedAnswer('I look: {"name": ', finish="stop", warnings=[BROKEN.problem]),
    ),
}


@every_chat
@pytest.mark.parametrize("case", CASES)
def test_answer_is_equal_streamed_and_whole(dialect: Dialect, case: str) -> None:
    pieces, finish, expected = CASES[case]
    expected.usage = USAGE
    streamed, whole = both_ways(dialect, pieces, FinishInfo(finish, 7))
    assert streamed == expected
    assert whole == expected


@every_chat
def test_loop_is_told_streamed_and_whole(dialect: Dialect) -> None:
    ending = FinishInfo("length", 7, loop_period=3)
    streamed, whole = both_ways(dialect, [["a a a"]], ending)
    assert streamed == whole
    assert whole.finish == "length"
    writer = MADE[dialect](json.dumps(dialect.body("hello", stream=True)).encode())
    assert b'"loop":{"period":3}' in writer.finish([ending], USED)
    writer = MADE[dialect](json.dumps(dialect.body("hello")).encode())
    assert b'"loop":{"period":3}' in writer.full_response([(OutputDelta(["a"], []), ending)], USED)
    assert b'"loop"' not in writer.finish([FinishInfo("length", 7)], USED)


@every_chat
def test_usage_counts_reasoning_tokens(dialect: Dialect) -> None:
    writer = MADE[dialect](json.dumps(dialect.body("hello")).encode())
    usage = json.loads(
        writer.full_response([(OutputDelta(["a"], []), FinishInfo("stop", 7))], USED)
    )["usage"]
    details = [value for key, value in usage.items() if key.startswith(("output", "completion"))]
    assert 3 in [n for value in details if isinstance(value, dict) for n in value.values()]


# --- Anthropic's own --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (FinishInfo("stop", 7), ("end_turn", None)),
        (FinishInfo("stop", 7, "END"), ("stop_sequence", "END")),
        (FinishInfo("length", 7), ("max_tokens", None)),
        (FinishInfo("tool_calls", 7), ("tool_use", None)),
        (FinishInfo("tool_calls", 7, "END"), ("tool_use", None)),
    ],
)
def test_message_names_its_stop_sequence(ending: FinishInfo, told: tuple[str, str | None]) -> None:
    writer = MADE[MESSAGES](json.dumps(MESSAGES.body("hello")).encode())
    whole = json.loads(writer.full_response([(OutputDelta(["a"], []), ending)], USED))
    assert (whole["stop_reason"], whole["stop_sequence"]) == told
    *_, (_, delta), _ = events_of(writer.finish([ending], USED))
    assert (delta["delta"]["stop_reason"], delta["delta"]["stop_sequence"]) == told


# --- Responses' own ---------------------------------------------------------------------------


def test_response_repeats_request_fields_and_stores_nothing() -> None:
    asked: dict[str, Any] = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "max_output_tokens": 9,
        "tools": [{"type": "function", "name": "look", "parameters": {}}],
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "seed": 7,
    }
    writer = MADE[RESPONSES](json.dumps({"input": "hello"} | asked).encode())
    told = json.loads(writer.full_response([(OutputDelta(["a"], []), FinishInfo("stop", 7))], USED))
    assert {key: told[key] for key in asked} == asked
    assert told["store"] is False
    assert told["previous_response_id"] is None


def test_item_cut_by_the_limit_is_incomplete() -> None:
    writer = MADE[RESPONSES](json.dumps({"input": "hello"}).encode())
    piece = OutputDelta([ReasoningText("hm"), "Hel"], [])
    told = json.loads(writer.full_response([(piece, FinishInfo("length", 7))], USED))
    assert [item["status"] for item in told["output"]] == ["completed", "incomplete"]


def test_reasoning_is_in_the_summary_if_requested() -> None:
    body = {"input": "hello", "reasoning": {"summary": "auto"}}
    writer = MADE[RESPONSES](json.dumps(body).encode())
    stream = writer.start(READ) + writer.delta(OutputDelta([ReasoningText("hm"), "So."], []), 0)
    events = events_of(stream + writer.finish([FinishInfo("stop", 7)], USED))
    expected = ReceivedAnswer("So.", "hm", finish="stop", usage=USAGE)
    assert RESPONSES.read_stream(events) == expected
    deltas = [data for name, data in events if name == "response.reasoning_summary_text.delta"]
    assert [(delta["summary_index"], delta["delta"]) for delta in deltas] == [(0, "hm")]
    item = events[-1][1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "hm"}]


@pytest.mark.parametrize(
    "reasoning", [{}, {"reasoning": {"effort": "low"}}], ids=["none", "effort"]
)
def test_reasoning_summaries_always_adds_a_summary(reasoning: dict[str, Any]) -> None:
    body = json.dumps({"input": "hello"} | reasoning).encode()
    call = responses.parse(body)
    pieces = [
        OutputDelta([ReasoningText("h")], []),
        OutputDelta([ReasoningText("m"), "So."], []),
    ]
    writer = ResponsesWriter(call, replace(INFO, reasoning_summaries="always"))
    stream = writer.start(READ) + b"".join(writer.delta(piece, 0) for piece in pieces)
    events = [data for _, data in events_of(stream + writer.finish([FinishInfo("stop", 7)], USED))]
    kinds = [event["type"] for event in events]
    for kind in ("reasoning_summary_text", "reasoning_text"):
        at = [i for i, name in enumerate(kinds) if name == f"response.{kind}.delta"]
        assert "".join(events[i]["delta"] for i in at) == "hm"
        assert (
            at[-1] < kinds.index(f"response.{kind}.done") < kinds.index("response.output_item.done")
        )
    assert kinds.count("response.output_item.added") == 2, "one item reasons, one answers"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    thought, said = events[-1]["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert said["content"][0]["text"] == "So."
    again = ResponsesWriter(call, replace(INFO, reasoning_summaries="always"))
    whole = json.loads(
        again.full_response(
            [(delta_of([ReasoningText("hm"), "So."], []), FinishInfo("stop", 7))], USED
        )
    )
    assert [{**item, "id": ""} for item in whole["output"]] == [
        {**item, "id": ""} for item in (thought, said)
    ]


def test_requested_summary_is_alone_for_every_configuration() -> None:
    body = json.dumps({"input": "hello", "reasoning": {"summary": "auto"}}).encode()
    for info in (INFO, replace(INFO, reasoning_summaries="always")):
        writer = ResponsesWriter(responses.parse(body), info)
        choice = (delta_of([ReasoningText("hm")], []), FinishInfo("stop", 7))
        (item,) = json.loads(writer.full_response([choice], USED))["output"]
        assert item["summary"] == [{"type": "summary_text", "text": "hm"}]
        assert "content" not in item


@every_chat
def test_notice_is_a_warning_outside_the_answer(dialect: Dialect) -> None:
    spans: list[list[Span]] = [["So."], [Notice("left out")]]
    for received in both_ways(dialect, spans, FinishInfo("stop", 7)):
        assert (received.text, received.warnings) == ("So.", ["left out"])
    for received in both_ways(dialect, [[Notice("left out")]], FinishInfo("stop", 7)):
        assert (received.text, received.warnings) == ("", ["left out"])
