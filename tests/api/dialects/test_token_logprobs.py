"""Log-probabilities of a response's tokens, each with the text that it began."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_worker.api.dialects.base import ResponseInfo, Usage
from mlx_worker.api.dialects.responses.request import ResponsesGenerationRequest, parse
from mlx_worker.api.dialects.responses.response import ResponsesWriter
from mlx_worker.supervisor.requests.generation import FinishInfo
from mlx_worker.supervisor.requests.output_buffer import OutputDelta
from mlx_worker.wire.output import ReasoningText, TokenChoice, TokenLogprobs, ToolCall
from tests.sse import events_of

INCLUDE = "message.output_text.logprobs"
USAGE = Usage(1, 0, 1)


def call() -> ResponsesGenerationRequest:
    return parse(json.dumps({"input": "hi", "include": [INCLUDE], "top_logprobs": 1}).encode())


def token(text: str, *, data: bytes | None = None, content: bool = True) -> TokenLogprobs:
    chosen = TokenChoice(text, -0.5, data)
    return TokenLogprobs(chosen, [chosen], content)


def reply() -> ResponsesWriter:
    return ResponsesWriter(call(), ResponseInfo("model", 0, "fp"))


def events(data: bytes) -> list[dict[str, Any]]:
    return [event.data for event in events_of(data)]


def ending() -> FinishInfo:
    return FinishInfo("stop", 3)


def streamed(*pieces: OutputDelta) -> list[dict[str, Any]]:
    writer = reply()
    told = [event for piece in pieces for event in events(writer.delta(piece, 0))]
    return told + events(writer.finish([ending()], USAGE))


def deltas(told: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    return [
        (event["delta"], [token["token"] for token in event["logprobs"]])
        for event in told
        if event["type"] == "response.output_text.delta"
    ]


def tokens_of(response: dict[str, Any]) -> list[list[str]]:
    return [
        [token["token"] for token in item["content"][0]["logprobs"]]
        for item in response["output"]
        if item["type"] == "message"
    ]


def test_logprobs_have_the_form_of_the_reference() -> None:
    chunks = events(reply().delta(OutputDelta(["a"], [token("a")]), 0))
    told = {"token": "a", "logprob": -0.5, "bytes": [97]}
    assert chunks[-1]["logprobs"] == [told | {"top_logprobs": [told]}]


CASES = [
    pytest.param(
        [OutputDelta(["a"], [token("a")]), OutputDelta([" b"], [token(" b")])],
        [("a", ["a"]), (" b", [" b"])],
        [["a", " b"]],
        id="a token each",
    ),
    pytest.param(
        [
            OutputDelta([], [token("\ufffd", data=b"\xf0\x9f")]),
            OutputDelta(["🙂"], [token("\ufffd", data=b"\x99\x82")]),
        ],
        [("🙂", ["\ufffd", "\ufffd"])],
        [["\ufffd", "\ufffd"]],
        id="a character of two tokens",
    ),
    pytest.param(
        [
            OutputDelta([ReasoningText("hm")], [token("hm", content=False)]),
            OutputDelta([], [token("</think>", content=False)]),
            OutputDelta(["a"], [token("a")]),
        ],
        [("a", ["a"])],
        [["a"]],
        id="reasoning first",
    ),
    pytest.param(
        [
            OutputDelta(["a"], [token("a")]),
            OutputDelta([ToolCall("c", "look", "{}")], [token("x", content=False)]),
            OutputDelta(["b"], [token("b")]),
        ],
        [("a", ["a"]), ("b", ["b"])],
        [["a"], ["b"]],
        id="a call between",
    ),
    pytest.param(
        [OutputDelta(["ab"], [token(" ab")]), OutputDelta(["c"], [token("c")])],
        [("ab", [" ab"]), ("c", [])],
        [[" ab", "c"]],
        id="a first space that is not shown",
    ),
    pytest.param([OutputDelta(["a"], [])], [("a", [])], [[]], id="none asked for"),
]


@pytest.mark.parametrize(("pieces", "told", "tokens"), CASES)
def test_logprobs_come_with_their_text_streamed_and_whole(
    pieces: list[OutputDelta], told: list[tuple[str, list[str]]], tokens: list[list[str]]
) -> None:
    stream = streamed(*pieces)
    assert deltas(stream) == told
    assert tokens_of(stream[-1]["response"]) == tokens
    done = [event["logprobs"] for event in stream if event["type"] == "response.output_text.done"]
    assert [[token["token"] for token in each] for each in done] == tokens
    spans = [span for piece in pieces for span in piece.spans]
    whole = OutputDelta(spans, [token for piece in pieces for token in piece.logprobs])
    assert tokens_of(json.loads(reply().full_response([(whole, ending())], USAGE))) == tokens
