"""Tokens that are counted, not read: beside a child's work, and past its death."""

import asyncio
from dataclasses import replace
from http import HTTPStatus

import pytest

from mlx_worker.api.dialects.errors import anthropic_error
from mlx_worker.errors import (
    BodyTooLarge,
    InvalidRequest,
    NodeDraining,
    QueueFull,
    UnknownModel,
    WorkerError,
)
from mlx_worker.wire.framing import encode, frames_from_child
from mlx_worker.wire.tokenizing import TokenizeResult
from tests.dialects import CHAT, MESSAGES
from tests.front.asking import Serve
from tests.supervisor_harness import DEADLINE, PATIENT, Fifo, eventually, kill_worker, soon

COUNT = "/v1/messages/count_tokens"


async def test_a_chat_is_counted_with_its_system_prompt(serve: Serve) -> None:
    front = await serve()
    body = MESSAGES.body("one two three", system="be kind")
    assert (await front.ask(COUNT, body)).json == {"input_tokens": 5}


async def test_text_and_tokens_are_had_under_any_run_of_v1(serve: Serve) -> None:
    front = await serve()
    for v1 in ("", "/v1"):
        tokens = await front.ask(f"{v1}/tokenize", {"prompt": "one two", "model": "m"})
        assert tokens.json == {"tokens": [1, 2], "count": 2, "max_model_len": 4096}
        assert (await front.ask(f"{v1}/detokenize", {"tokens": [1, 2]})).json == {"prompt": "1 2"}


async def test_the_messages_of_a_chat_are_tokenized_as_a_chat_reads_them(serve: Serve) -> None:
    front = await serve()
    asked = {**CHAT.body("one two three", system="be kind"), "continue_final_message": False}
    answer = await front.ask("/tokenize", asked)
    assert (answer.json["count"], len(answer.json["tokens"])) == (5, 5)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 422, "prompt"),
        ({"prompt": "one", "messages": [{"role": "user", "content": "a"}]}, 400, "prompt"),
        (
            {"messages": [{"role": "user", "content": "a"}], "add_special_tokens": True},
            400,
            "add_special_tokens",
        ),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "stranger", "content": "a"}]}, 400, "messages[0].role"),
    ],
)
async def test_messages_that_no_chat_has_are_not_tokenized(
    serve: Serve, body: dict[str, object], status: int, param: str
) -> None:
    front = await serve(wait=False)
    answer = await front.ask("/tokenize", body)
    assert (answer.status, answer.error["param"]) == (status, param)


async def test_echoed_tokens_are_told_as_text(serve: Serve) -> None:
    front = await serve()
    answer = await front.ask("/v1/completions", {"prompt": [1, 2], "echo": True})
    assert answer.json["choices"][0]["text"].startswith("1 2")


def test_the_front_makes_no_value_of_a_token() -> None:
    ids = b"[" + b",".join([b"65"] * 1_000_000) + b"]"
    (told,) = frames_from_child().feed(encode(TokenizeResult(1, 1_000_000, ids)))
    assert isinstance(told, TokenizeResult)
    assert told.tokens == ids


async def test_special_tokens_are_not_left_out(serve: Serve) -> None:
    front = await serve(wait=False)
    answer = await front.ask("/tokenize", {"prompt": "one", "add_special_tokens": False})
    assert (answer.status, answer.error["param"]) == (400, "add_special_tokens")


async def test_count_tokens_model_loading_waits_for_the_model(serve: Serve, hold: Fifo) -> None:
    patient = replace(PATIENT, load_wait=DEADLINE)
    front = await serve("--hold-load", hold.path, resume=patient, wait=False)
    counting = asyncio.ensure_future(front.ask(COUNT, MESSAGES.body("one two")))
    await front.reaches(state="loading")
    hold.let(1)
    assert (await soon(counting)).json == {"input_tokens": 2}


async def test_count_tokens_model_loads_too_long_is_a_503_with_retry_after(
    serve: Serve, hold: Fifo
) -> None:
    front = await serve("--hold-load", hold.path, resume=replace(PATIENT, load_wait=0), wait=False)
    answer = await front.ask(COUNT, MESSAGES.body("one two"))
    assert answer.status == 503
    assert answer.json["error"]["type"] == "overloaded_error"
    assert int(answer.headers["Retry-After"]) >= 1
    hold.let(1)


async def test_a_count_that_died_with_its_child_is_made_by_the_next(
    serve: Serve, hold: Fifo
) -> None:
    patient = replace(PATIENT, load_wait=DEADLINE)
    front = await serve("--hold-start", hold.path, resume=patient)
    chat = asyncio.ensure_future(front.ask(CHAT.path, CHAT.body("hello")))
    await front.reaches(running=1)
    counting = asyncio.ensure_future(front.ask(COUNT, MESSAGES.body("one two")))
    child = front.node.models["m"].child

    async def in_its_hands() -> bool:
        return child.open_ids == 2

    await eventually(in_its_hands)
    kill_worker((await front.model())["pid"])
    hold.let(2)
    assert (await soon(counting)).json == {"input_tokens": 2}
    assert (await soon(chat)).status == 200


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("why"), "invalid_request_error"),
        (UnknownModel("why"), "not_found_error"),
        (BodyTooLarge("why"), "request_too_large"),
        (QueueFull("why"), "rate_limit_error"),
        (NodeDraining("why"), "overloaded_error"),
        (WorkerError("why"), "api_error"),
    ],
)
def test_anthropics_errors_go_by_the_status(error: WorkerError, kind: str) -> None:
    told = b'{"type":"error","error":{"type":"%s","message":"why"}}' % kind.encode()
    assert anthropic_error(error) == told
    assert error.status >= HTTPStatus.BAD_REQUEST
