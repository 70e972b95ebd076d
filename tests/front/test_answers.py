"""What a chat completion looks like, streamed and whole, and its headers."""

import time

import pytest

from tests.front.asking import PROMPT, Serve, asked
from tests.supervisor_harness import Fifo, soon

# --- answers --------------------------------------------------------------------------------


async def test_a_whole_answer(serve: Serve) -> None:
    front = await serve()
    now = int(time.time())
    answer = await front.chat("one two three", model="m")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    body = answer.json
    assert body.pop("id").startswith("chatcmpl-")
    assert now <= body.pop("created") <= time.time()
    assert body.pop("system_fingerprint").startswith("fp_")
    assert isinstance(body.pop("seed"), int)
    assert body == {
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one two three"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }


async def test_a_streamed_answer(serve: Serve) -> None:
    front = await serve()
    answer = await front.chat("one two three", model="m", stream=True)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    *chunks, done = answer.events
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert isinstance(chunk["created"], int)
        assert chunk["model"] == "m"
        assert len(chunk["choices"]) == 1
    opening, *pieces, closing = [chunk["choices"][0] for chunk in chunks]
    assert opening["delta"] == {"role": "assistant", "content": ""}
    assert "".join(piece["delta"]["content"] for piece in pieces) == "one two three"
    assert [piece["finish_reason"] for piece in (opening, *pieces)] == [None] * (1 + len(pieces))
    assert closing["finish_reason"] == "stop"


@pytest.mark.parametrize("include", [True, False])
async def test_usage_is_streamed_only_when_it_is_asked_for(serve: Serve, include: bool) -> None:
    front = await serve()
    options = {"include_usage": include}
    events = (await front.chat("one two", stream=True, stream_options=options)).events
    usages = [event for event in events if event != "[DONE]" and event["choices"] == []]
    if not include:
        assert usages == []
        assert all("usage" not in event for event in events[:-1])
    else:
        (usage,) = usages
        assert events.index(usage) == len(events) - 2
        assert all(event["usage"] is None for event in events[:-2])
        assert usage["usage"] == {
            "prompt_tokens": 2,
            "completion_tokens": 2,
            "total_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_that_was_cut_says_length(serve: Serve, stream: bool, field: str) -> None:
    answer = await (await serve()).chat("one two three", stream=stream, **{field: 2})
    assert answer.text == "one two"
    last = answer.events[-2] if stream else answer.json
    assert last["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
async def test_text_of_any_script_arrives_as_it_was_said(serve: Serve, stream: bool) -> None:
    text = 'Grüße 東京 🙂 "quoted" back\\slash </script> \u2028'
    answer = await (await serve()).chat(text, stream=stream)
    assert answer.text == " ".join(text.split())


async def test_unknown_fields_are_tolerated(serve: Serve) -> None:
    answer = await (await serve()).chat("hello", cache_prompt=True, metadata={"a": [1, {}]})
    assert answer.text == "hello"


async def test_parts_of_text_are_one_text(serve: Serve) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    front = await serve()
    body = {"messages": [{"role": "user", "content": parts}]}
    assert (await front.ask("/v1/chat/completions", body)).text == "one two"


# --- headers --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_session_and_a_request_id_are_echoed(serve: Serve, stream: bool) -> None:
    front = await serve()
    body = asked("hello", stream=stream)
    ids = {"X_Session_Id": "session-7", "X_Request_Id": "request-9"}
    answer = await front.ask("/v1/chat/completions", body, **ids)
    assert answer.headers["X-Session-Id"] == "session-7"
    assert answer.headers["X-Request-Id"] == "request-9"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_session_and_a_request_id_are_made_where_none_came(
    serve: Serve, stream: bool
) -> None:
    front = await serve()
    answers = [await front.chat("hello", stream=stream) for _ in range(2)]
    for header in ("X-Session-Id", "X-Request-Id"):
        first, second = (answer.headers[header] for answer in answers)
        assert first
        assert second
        assert first != second


async def test_the_cache_header_says_whether_the_system_prompt_was_resident(serve: Serve) -> None:
    front = await serve()
    said = [
        (await front.chat("hello", system=system, stream=stream)).headers["X-Cache-Hit"]
        for system, stream in ((PROMPT, False), (PROMPT, False), (PROMPT, True), ("new", True))
    ]
    assert said == ["false", "true", "true", "false"]


async def test_all_headers_are_there_before_the_first_token(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open("/v1/chat/completions", asked("hello", stream=True)))
    assert stream.status == 200
    for header in ("X-Session-Id", "X-Request-Id", "X-Cache-Hit"):
        assert header in stream.headers
    pace.let(1)
    assert b"[DONE]" in await soon(stream.read())


async def test_tokens_are_sent_as_they_come(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    stream = await soon(front.open("/v1/chat/completions", asked("one two", stream=True)))
    pace.let(1)
    assert b'"one"' in await soon(stream.content.readuntil(b'"one"'))
    pace.let(1)
    assert b'" two"' in await soon(stream.read())


async def test_errors_carry_the_request_id_too(serve: Serve) -> None:
    front = await serve(wait=False)
    answer = await front.ask("/v1/chat/completions", b"{", X_Request_Id="request-9")
    assert answer.headers["X-Request-Id"] == "request-9"
    assert (await front.ask("/nowhere")).headers["X-Request-Id"]
