"""Answers that break the contract of a node are found, each by itself."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from tests.processes import Answer
from tests.routers import contract
from tests.routers.contract import BrokenContract
from tests.sse import DONE, Event

HEALTH: Final = {
    "status": "healthy",
    "health": {"lastCheck": 1.5, "consecutiveFailures": 0, "avgResponseTime": 0, "errorRate": 0},
    "cache": {"tokens": 0, "systemPromptHash": "", "lastUpdated": 0, "warmed": False},
    "metrics": {"requestsInFlight": 0, "totalRequests": 0, "cacheHitRate": 0, "avgLatency": 0},
    "models": {},
}
USAGE: Final = {
    "prompt_tokens": 3,
    "completion_tokens": 1,
    "total_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 2},
}
REFUSAL: Final = {"error": {"message": "later", "type": "t", "param": None, "code": "c"}}


def answer(status: int, body: Any, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, json.dumps(body).encode())


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **fields: Any) -> Event:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if delta is not None else []
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return Event(None, head | {"choices": choices} | fields)


CHAT: Final = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "hello"}),
    chunk({}, "stop"),
    chunk(None, usage=USAGE),
    Event(None, DONE),
)


def response(*kinds: str, text: str = "hello") -> list[Event]:
    """Return a stream of these events, with what each of them has to have."""
    fields: dict[str, dict[str, Any]] = {
        "output_item.added": {"output_index": 0},
        "output_text.delta": {"output_index": 0, "delta": "hello"},
        "output_item.done": {
            "output_index": 0,
            "item": {"content": [{"type": "output_text", "text": text}]},
        },
        "completed": {
            "response": {
                "usage": {
                    "input_tokens": 3,
                    "output_tokens": 1,
                    "total_tokens": 4,
                    "input_tokens_details": {"cached_tokens": 2},
                }
            }
        },
    }
    return [
        Event(f"response.{kind}", {"type": f"response.{kind}", "sequence_number": number, **more})
        for number, kind in enumerate(kinds)
        for more in [fields.get(kind, {})]
    ]


WHOLE: Final = (
    "created",
    "output_item.added",
    "output_text.delta",
    "output_item.done",
    "completed",
)


def test_answers_that_keep_the_contract_are_read() -> None:
    assert contract.health_of(answer(200, HEALTH)).status == "healthy"
    assert contract.models_of(answer(503, REFUSAL, Retry_After="1")) is None
    chat, whole = contract.chat_of(CHAT, "m"), contract.response_of(response(*WHOLE))
    assert chat == whole == contract.Said("hello", "stop", USAGE)


@pytest.mark.parametrize(
    "broken",
    [
        answer(500, HEALTH),
        answer(503, HEALTH),
        answer(200, HEALTH | {"status": "fine"}),
        answer(200, HEALTH | {"metrics": {"requestsInFlight": -1}}),
        answer(200, HEALTH | {"cache": HEALTH["cache"] | {"systemPromptHash": "abc"}}),  # type: ignore[operator]
        answer(200, HEALTH | {"padding": "x" * contract.LARGEST_HEALTH}),
    ],
)
def test_broken_health_is_found(broken: Answer) -> None:
    with pytest.raises(BrokenContract):
        contract.health_of(broken)


@pytest.mark.parametrize(
    "broken",
    [
        answer(503, REFUSAL),
        answer(503, REFUSAL, Retry_After="0"),
        answer(503, {"detail": "later"}, Retry_After="1"),
        answer(404, REFUSAL, Retry_After="1"),
    ],
)
def test_a_broken_refusal_is_found(broken: Answer) -> None:
    with pytest.raises(BrokenContract):
        contract.refusal(broken)


@pytest.mark.parametrize(
    "events",
    [
        [],
        CHAT[:-1],
        [*CHAT[:3], CHAT[4]],
        [*CHAT[:2], *CHAT[3:]],
        CHAT[1:],
        [*CHAT[:2], chunk({"role": "assistant"}), *CHAT[2:]],
        [*CHAT[:3], CHAT[2], *CHAT[3:]],
        [*CHAT[:3], chunk(None, usage=USAGE | {"total_tokens": 5}), CHAT[4]],
        [*CHAT[:2], chunk({"content": "x"}, id="2"), *CHAT[2:]],
    ],
)
def test_a_broken_chat_is_found(events: list[Event]) -> None:
    with pytest.raises(BrokenContract):
        contract.chat_of(events, "m")


@pytest.mark.parametrize(
    "events",
    [
        [],
        response(*WHOLE[1:]),
        response(*WHOLE[:-1]),
        response(*WHOLE, "completed"),
        response("created", *WHOLE[2:]),
        response(*WHOLE[:3], "completed"),
        response(*WHOLE, text="other"),
        response(*WHOLE)[:1] + response(*WHOLE)[2:],
    ],
)
def test_a_broken_response_is_found(events: list[Event]) -> None:
    with pytest.raises(BrokenContract):
        contract.response_of(events)


def test_headers_of_another_session_are_found() -> None:
    headers = {
        **contract.STREAM_HEADERS,
        "X-Session-Id": "a",
        "X-Cache-Hit": "true",
        "X-Request-Id": "r",
    }
    contract.check_headers(headers, "a")
    with pytest.raises(BrokenContract):
        contract.check_headers(headers, "b")
    for name in headers:
        with pytest.raises(BrokenContract):
            contract.check_headers(
                {key: value for key, value in headers.items() if key != name}, "a"
            )
