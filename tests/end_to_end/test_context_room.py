"""How long an answer may be: what is asked for, and at most the room that the prompt leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.dialects import ALL, CHAT, CHATS, COMPLETIONS, MESSAGES, Dialect
from tests.rounds import variants
from tests.sse import events_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import StartNode
    from tests.processes import Answer, RunningNode

CONTEXT = 32
PLENTY = [
    CONTEXT,
    32_000,
    (1 << 30) + 1,
    (1 << 31) - 1,
    (1 << 63) - 1,
    1 << 64,
    10**30,
]

every_dialect = pytest.mark.parametrize("dialect", ALL, ids=repr)
both_ways = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@pytest.fixture(scope="module")
def small(start_node: StartNode, tiny: Path) -> RunningNode:
    """One folder, with little context, once with a default of as much."""
    little = f"context_length = {CONTEXT}"
    extra = {
        "little": little,
        "all": f"{little}\npreload = false\n[models.defaults]\nmax_tokens = {CONTEXT}",
    }
    return start_node(dict.fromkeys(extra, tiny), extra=extra)


def read_answer(dialect: Dialect, answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    if answer.headers["Content-Type"].startswith("application/json"):
        return dialect.read_full(answer.json)
    return dialect.read_stream(events_of(answer.body))


def refusal(answer: Answer) -> Any:
    assert answer.status == 400, answer.body
    assert answer.headers["Content-Type"].startswith("application/json")
    return answer.json["error"]


@every_dialect
@both_ways
@pytest.mark.parametrize("asked", variants(PLENTY, [PLENTY[-1]]))
def test_more_than_the_room_is_cut_to_the_room(
    small: RunningNode, dialect: Dialect, stream: bool, asked: int
) -> None:
    body = dialect.body("Hello", model="little", stream=stream) | {dialect.limit: asked}
    said = read_answer(dialect, small.ask(dialect.path, body))
    assert said.usage.prompt + said.usage.completion == CONTEXT
    assert said.finish == "length"


@pytest.mark.full
@every_dialect
def test_a_default_of_the_model_is_cut_to_the_room(small: RunningNode, dialect: Dialect) -> None:
    said = read_answer(dialect, small.ask(dialect.path, dialect.body("Hello", model="all")))
    assert said.usage.prompt + said.usage.completion == CONTEXT
    assert said.finish == "length"


def test_the_default_of_completions_is_cut_to_the_room(small: RunningNode) -> None:
    body = {"model": "little", "prompt": [9] * (CONTEXT - 3)}
    said = read_answer(COMPLETIONS, small.ask(COMPLETIONS.path, body))
    assert (said.usage.completion, said.finish) == (3, "length")


def test_each_of_several_choices_is_cut(small: RunningNode) -> None:
    body = CHAT.body("Hello", model="little", n=2, temperature=1, seed=3, max_tokens=32_000)
    answer = small.ask(CHAT.path, body).json
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 2
    room = CONTEXT - answer["usage"]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == 2 * room


@both_ways
@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (None, "model_context_window_exceeded"),
        (32_000, "model_context_window_exceeded"),
        (3, "max_tokens"),
    ],
    ids=["none asked", "more than the room", "less than the room"],
)
def test_messages_say_whether_the_limit_or_the_context_ended_the_answer(
    small: RunningNode, stream: bool, asked: int | None, reason: str
) -> None:
    body = MESSAGES.body("Hello", model="little", stream=stream, max_tokens=asked)
    answer = small.ask(MESSAGES.path, body)
    if stream:
        ends = [data for _, data in events_of(answer.body) if data["type"] == "message_delta"]
        assert [end["delta"]["stop_reason"] for end in ends] == [reason]
    else:
        assert answer.json["stop_reason"] == reason


def test_messages_say_max_tokens_where_the_limit_is_the_room_itself(small: RunningNode) -> None:
    body = MESSAGES.body("Hello", model="little")
    room = CONTEXT - small.ask(f"{MESSAGES.path}/count_tokens", body).json["input_tokens"]
    answer = small.ask(MESSAGES.path, body | {"max_tokens": room}).json
    assert (answer["usage"]["output_tokens"], answer["stop_reason"]) == (room, "max_tokens")


@both_ways
@pytest.mark.parametrize("tokens", [CONTEXT, CONTEXT + 1, 2 * CONTEXT])
def test_a_prompt_without_room_for_an_answer_is_refused_with_the_numbers(
    small: RunningNode, stream: bool, tokens: int
) -> None:
    body = {"model": "little", "prompt": [9] * tokens, "stream": stream, "max_tokens": 1}
    error = refusal(small.ask(COMPLETIONS.path, body))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    begin = f"This model's maximum context length is {CONTEXT} tokens. However, your prompt"
    assert error["message"].startswith(begin)
    assert f"resulted in {tokens} tokens" in error["message"]


WORDS_OVER = "fox " * 200
BYTES_OVER = "fox " * 40_000
"""Refused by its bytes, before it is tokenized."""


@pytest.mark.parametrize("dialect", [chat for chat in CHATS if chat is not MESSAGES], ids=repr)
@both_ways
@pytest.mark.parametrize("text", [WORDS_OVER, BYTES_OVER], ids=["tokens", "bytes"])
def test_openai_dialects_refuse_in_the_sentence_that_clients_know(
    small: RunningNode, dialect: Dialect, stream: bool, text: str
) -> None:
    body = dialect.body(text, model="little", stream=stream)
    error = refusal(small.ask(dialect.path, body))
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "invalid_request_error"
    begin = f"This model's maximum context length is {CONTEXT} tokens. However, "
    assert error["message"].startswith(begin)


@both_ways
@pytest.mark.parametrize("text", [WORDS_OVER, BYTES_OVER], ids=["tokens", "bytes"])
def test_messages_refuse_in_the_sentence_that_clients_know(
    small: RunningNode, stream: bool, text: str
) -> None:
    body = MESSAGES.body(text, model="little", stream=stream, max_tokens=32_000)
    error = refusal(small.ask(MESSAGES.path, body))
    assert error["type"] == "invalid_request_error"
    words = error["message"].split()
    tokens = int(words[4])
    assert error["message"] == f"prompt is too long: {tokens} tokens > {CONTEXT} maximum"
    assert tokens > CONTEXT


def test_messages_with_a_prompt_that_is_the_whole_context_name_what_would_fit(
    small: RunningNode,
) -> None:
    """A prompt of as many tokens as the context has no room for an answer."""
    body = MESSAGES.body("Hello", model="little")
    path = f"{MESSAGES.path}/count_tokens"
    short = small.ask(path, body).json["input_tokens"]
    text = "Hello" + " old" * (CONTEXT - short)
    body = MESSAGES.body(text, model="little", max_tokens=1)
    assert small.ask(path, body).json["input_tokens"] == CONTEXT
    error = refusal(small.ask(MESSAGES.path, body))
    assert error["message"] == f"prompt is too long: {CONTEXT} tokens > {CONTEXT - 1} maximum"


@every_dialect
@pytest.mark.parametrize("asked", [-1, -(1 << 70)])
def test_fewer_than_none_are_refused(small: RunningNode, dialect: Dialect, asked: int) -> None:
    answer = small.ask(dialect.path, dialect.body("Hello") | {dialect.limit: asked})
    assert refusal(answer)["message"].startswith(f"{dialect.limit}: ")
