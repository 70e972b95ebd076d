"""What is answered to `POST /v1/chat/completions`: pieces in, bytes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_worker.api.dialects.base import GenerationRequest, ResponseInfo, Usage
from mlx_worker.api.dialects.chat.response import ChatWriter
from mlx_worker.errors import ChildLost
from mlx_worker.supervisor.requests.generation import FinishInfo
from mlx_worker.supervisor.requests.output_buffer import OutputDelta
from mlx_worker.wire.output import (
    FinishReason,
    InvalidToolCall,
    ReasoningText,
    TokenChoice,
    TokenLogprobs,
    ToolCall,
)
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.sse import data_of

USAGE = Usage(prompt=100, cached=64, completion=7, reasoning=2)


def ended(finish: FinishReason) -> FinishInfo:
    return FinishInfo(finish, 7)


def reply(model: str = "nano", *, include_usage: bool = False, n: int = 1) -> ChatWriter:
    chat = ChatRequest([{"role": "user", "content": "Hello"}], Sampling(seed=7))
    call = GenerationRequest(model, [chat], stream=True, include_usage=include_usage, seed=7, n=n)
    return ChatWriter(call, ResponseInfo(model, 1_700_000_000, "fp_0123456789ab"))


def delta_of(model: str, text: str) -> Any:
    (chunk,) = data_of(reply(model).delta(OutputDelta([text], []), 0))
    return chunk


def test_stream_is_role_text_finish_and_done() -> None:
    writer = reply()
    stream = (
        writer.start(USAGE)
        + writer.delta(OutputDelta(["Hel"], []), 0)
        + writer.delta(OutputDelta(["lo"], []), 0)
        + writer.finish([ended("stop")], USAGE)
    )
    *chunks, done = data_of(stream)
    assert done == "[DONE]"
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "lo"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    ]
    assert all("usage" not in chunk for chunk in chunks)


def test_stream_chunks_share_one_completion_id() -> None:
    writer = reply(include_usage=True)
    stream = (
        writer.start(USAGE)
        + writer.delta(OutputDelta(["Hello"], []), 0)
        + writer.finish([ended("length")], USAGE)
    )
    heads = [
        {k: v for k, v in chunk.items() if k not in ("choices", "usage", "seed")}
        for chunk in data_of(stream)[:-1]
    ]
    assert heads == [heads[0]] * 4
    assert heads[0].pop("id").startswith("chatcmpl-")
    assert heads[0] == {
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "nano",
        "system_fingerprint": "fp_0123456789ab",
    }


def test_completions_have_distinct_ids() -> None:
    ids = {data_of(reply().start(USAGE))[0]["id"] for _ in range(8)}
    assert len(ids) == 8


def test_stream_usage_is_the_last_chunk_without_choices() -> None:
    finish, usage, done = data_of(reply(include_usage=True).finish([ended("length")], USAGE))
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 100,
        "completion_tokens": 7,
        "total_tokens": 107,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {
            "reasoning_tokens": 2,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert done == "[DONE]"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('say "?" twice: "?"', id="quotes"),
        pytest.param("?", id="a question mark"),
        pytest.param('"?"', id="a quoted question mark"),
        pytest.param("a\nb\r\nc\n\nd", id="line breaks"),
        pytest.param("data: [DONE]\n\n", id="an end that is none"),
        pytest.param("\u2028\u2029\x85\x0b\x0c", id="other line breaks"),
        pytest.param("\x00\x1f\x7f", id="control characters"),
        pytest.param("}", id="a lone brace"),
        pytest.param('{"a": [', id="half of some JSON"),
        pytest.param("\\", id="a backslash"),
        pytest.param("Grüße 東京 👩‍👩‍👧 \U0010ffff", id="beyond ASCII"),
        pytest.param("</script>", id="markup"),
        pytest.param(" ", id="a space"),
    ],
)
def test_delta_text_survives_encoding(text: str) -> None:
    assert delta_of("nano", text)["choices"][0]["delta"] == {"content": text}


@settings(derandomize=True)
@given(text=st.text())
def test_delta_text_of_any_characters_survives_encoding(text: str) -> None:
    assert delta_of("nano", text)["choices"][0]["delta"] == {"content": text}


@pytest.mark.parametrize("model", ["org/model:4bit", "?", 'what"?', '"?"', 'a"b\\', "ö\n"])
def test_delta_with_any_model_name_is_valid(model: str) -> None:
    """A client may send any name where the node has a default model."""
    chunk = delta_of(model, "Hello")
    assert chunk["model"] == model
    assert chunk["choices"] == [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]


def test_stream_error_is_one_event_without_done() -> None:
    error = ChildLost("the model's process\nended", retry_after=1)
    assert data_of(reply().error(error)) == [
        {
            "error": {
                "message": "the model's process\nended",
                "type": "server_error",
                "param": None,
                "code": "child_lost",
            }
        }
    ]


def test_full_response_is_one_completion_object() -> None:
    answer = json.loads(
        reply("qwen").full_response([(OutputDelta(['Hello "you"\n'], []), ended("stop"))], USAGE)
    )
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer == {
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "qwen",
        "system_fingerprint": "fp_0123456789ab",
        "seed": 7,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": 'Hello "you"\n'},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 7,
            "total_tokens": 107,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {
                "reasoning_tokens": 2,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }


# --- reasoning and calls --------------------------------------------------------------------

LOOK = ToolCall("call_1", "look", '{"at": "東京"}')
WALK = ToolCall("call_2", "walk", "{}")
BROKEN = InvalidToolCall('{"name": ', "not a tool call: the text contains no call")


def deltas(*pieces: OutputDelta) -> list[Any]:
    writer = reply()
    stream = b"".join(writer.delta(piece, 0) for piece in pieces)
    return [chunk["choices"][0]["delta"] for chunk in data_of(stream)]


def whole(piece: OutputDelta, finish: FinishReason = "stop") -> Any:
    (choice,) = json.loads(reply().full_response([(piece, ended(finish))], USAGE))["choices"]
    assert choice["finish_reason"] == finish
    return choice


def test_stream_reasoning_has_both_keys_and_no_content() -> None:
    said = deltas(
        OutputDelta([ReasoningText("hm")], []), OutputDelta([ReasoningText(" well"), "So."], [])
    )
    assert said == [
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"reasoning_content": " well", "reasoning": " well"},
        {"content": "So."},
    ]


def test_stream_call_has_name_then_arguments_with_counted_index() -> None:
    said = deltas(OutputDelta(["Let me see.", LOOK], []), OutputDelta([WALK], []))
    assert said == [
        {"content": "Let me see."},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "look", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"at": "東京"}'}}]},
        {
            "tool_calls": [
                {
                    "index": 1,
                    "id": "call_2",
                    "type": "function",
                    "function": {"name": "walk", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
    ]


def test_stream_invalid_call_is_content_with_a_warning() -> None:
    (chunk,) = data_of(reply().delta(OutputDelta([BROKEN], []), 0))
    assert chunk["choices"] == [
        {
            "index": 0,
            "delta": {"content": '{"name": '},
            "finish_reason": None,
            "warnings": ["not a tool call: the text contains no call"],
        }
    ]


def test_full_response_sorts_spans() -> None:
    choice = whole(
        OutputDelta([ReasoningText("hm"), "Let me see.", LOOK, WALK, " end"], []), "tool_calls"
    )
    assert choice["message"] == {
        "role": "assistant",
        "content": "Let me see. end",
        "reasoning_content": "hm",
        "reasoning": "hm",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"at": "東京"}'},
            },
            {"id": "call_2", "type": "function", "function": {"name": "walk", "arguments": "{}"}},
        ],
    }
    assert "warnings" not in choice


def test_full_response_of_calls_alone_has_null_content() -> None:
    assert whole(OutputDelta([LOOK], []), "tool_calls")["message"]["content"] is None


def test_full_response_invalid_call_is_content_with_a_warning() -> None:
    choice = whole(OutputDelta(["I look: ", BROKEN, "?"], []))
    assert choice["message"] == {"role": "assistant", "content": 'I look: {"name": ?'}
    assert choice["warnings"] == ["not a tool call: the text contains no call"]


def test_delta_logprobs_are_reported_once_for_all_spans() -> None:
    told = TokenLogprobs(TokenChoice("a", -1.0), [])
    for piece in (
        OutputDelta(["a"], [told]),
        OutputDelta([], [told]),
        OutputDelta([ReasoningText("a"), "b"], [told]),
    ):
        chunks = data_of(reply().delta(piece, 0))
        entries = [chunk["choices"][0].get("logprobs") for chunk in chunks]
        assert [len(entry["content"]) for entry in entries if entry] == [1]


def test_logprobs_of_a_partial_character_have_its_bytes() -> None:
    told = TokenLogprobs(TokenChoice("\ufffd", -1.0, b"\xf0\x9f"), [TokenChoice("é", -2.0)])
    (entry,) = whole(OutputDelta([], [told]))["logprobs"]["content"]
    assert (entry["token"], entry["bytes"]) == ("\ufffd", [0xF0, 0x9F])
    assert entry["top_logprobs"][0]["bytes"] == [*"é".encode()]


# --- choices ----------------------------------------------------------------------------------


def test_stream_choices_have_their_index() -> None:
    writer = reply(n=2)
    stream = (
        writer.start(USAGE)
        + writer.delta(OutputDelta([LOOK, "b"], []), 1)
        + writer.delta(OutputDelta(["a"], []), 0)
        + writer.delta(OutputDelta([WALK], []), 0)
        + writer.finish([ended("tool_calls"), ended("length")], USAGE)
    )
    *chunks, done = data_of(stream)
    assert done == "[DONE]"
    said = [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"]) for chunk in chunks]
    assert [index for index, _ in said] == [0, 1, 1, 1, 1, 0, 0, 0, 0, 1]
    assert said[4] == (1, {"content": "b"})
    assert said[5] == (0, {"content": "a"})
    # Calls are counted in each choice by itself.
    assert said[6][1]["tool_calls"][0]["index"] == 0
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes[-2:] == ["tool_calls", "length"]
    assert [chunk.get("seed") for chunk in chunks] == [7, 7] + [None] * 8


def test_full_response_choices_are_in_order() -> None:
    said: list[tuple[OutputDelta, FinishInfo]] = [
        (OutputDelta(["a"], []), ended("stop")),
        (OutputDelta(["b"], []), ended("length")),
    ]
    choices = json.loads(reply(n=2).full_response(said, USAGE))["choices"]
    assert [
        (choice["index"], choice["message"]["content"], choice["finish_reason"])
        for choice in choices
    ] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]
