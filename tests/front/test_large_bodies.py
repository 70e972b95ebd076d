"""Bodies that would hold the event loop: parsed elsewhere, bounded, answered as any other."""

import json
from typing import Any

import pytest

from mlx_worker.api.dialects.base import MAX_COPIED
from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.api.dialects.fields import check_free_form
from mlx_worker.api.dialects.packing import pack_chat
from mlx_worker.api.generation.endpoints import generate
from mlx_worker.api.middleware.body import (
    BYTES_PER_TOKEN,
    MAX_DEFAULT_LIMIT,
    MIN_DEFAULT_LIMIT,
    UNKNOWN_CONTEXT_BYTES,
    default_limit,
)
from mlx_worker.api.parsing.parser import LARGE_BODY
from mlx_worker.config.schema import ServerConfig
from mlx_worker.limits import CONSTRAINT_BYTES, TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.validation import explain, too_much
from tests.front.asking import Serve, model

FILL = " " * LARGE_BODY
"""Blanks in JSON: they make a body large and mean nothing."""

HELLO = [{"role": "user", "content": "one two"}]
ROOM = ServerConfig(max_body_bytes=64 << 20)


def large(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode() + FILL.encode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "n": 3}),
        ("/v1/completions", {"prompt": ["one two", "three"], "echo": True, "n": 2}),
        ("/v1/responses", {"input": "one two", "metadata": {"a": "b"}, "tools": []}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 100}),
        ("/v1/messages/count_tokens", {"messages": HELLO}),
        ("/tokenize", {"prompt": "one two"}),
        ("/tokenize", {"prompt": ""}),
        ("/detokenize", {"tokens": [1, 2, 3]}),
    ],
)
async def test_a_large_body_is_answered_as_a_small_one(
    serve: Serve, path: str, body: dict[str, Any]
) -> None:
    front = await serve()
    body = body if "tokenize" in path else body | {"seed": 1}
    small, big = await front.ask(path, body), await front.ask(path, large(body))
    assert (small.status, big.status) == (200, 200)
    made = ("id", "created", "created_at")
    for answer in (small.json, big.json):
        for key in made:
            answer.pop(key, None)
    assert shape(big.json) == shape(small.json)


def shape(value: Any) -> Any:
    """The answer without ids that are made anew each time."""
    if isinstance(value, dict):
        return {
            key: shape(part) for key, part in value.items() if not key.startswith(("id", "create"))
        }
    return [shape(part) for part in value] if isinstance(value, list) else value


async def test_a_large_body_is_not_parsed_on_the_event_loop(serve: Serve) -> None:
    front = await serve()
    answers = []

    async def ask() -> None:
        answers.append(await front.ask("/v1/chat/completions", large({"messages": HELLO})))

    work = ask()
    await front.chat("one")  # what is imported late is imported

    made: set[str] = set()
    import sys  # noqa: PLC0415

    def seen(frame: Any, event: str, _argument: Any) -> None:
        if event == "call":
            made.add(frame.f_code.co_qualname)

    sys.setprofile(seen)
    try:
        await work
    finally:
        sys.setprofile(None)
    assert answers[0].status == 200
    assert generate.__qualname__ in made
    of_parsing = (decode_body, check_free_form, too_much, explain, pack_chat)
    assert not made & {function.__qualname__ for function in of_parsing}


async def test_more_prompts_than_places_are_a_400(serve: Serve) -> None:
    front = await serve(models=(model(max_concurrency=2, max_queue=3),))
    for fill in ("", FILL):
        body = json.dumps({"prompt": ["a"] * 6}) + fill
        answer = await front.ask("/v1/completions", body.encode())
        assert (answer.status, answer.error["param"]) == (400, "prompt")
        assert "6 choices; model 'm' takes 5" in answer.error["message"]


async def test_choices_of_a_large_prompt_are_bounded_together(serve: Serve) -> None:
    front = await serve(server=ROOM)
    answer = await front.chat("x" * (MAX_COPIED // 4), n=5)
    assert (answer.status, answer.error["param"]) == (400, "n")
    assert str(MAX_COPIED) in answer.error["message"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("chat_template_kwargs", f"more than {TEMPLATE_VALUES} values"),
        ("tools", f"more than {TOOL_VALUES} values"),
        ("response_format", f"at most {CONSTRAINT_BYTES}"),
    ],
)
async def test_more_values_than_anybody_looks_at_are_a_400(
    serve: Serve, field: str, message: str
) -> None:
    front = await serve()
    many: list[list[Any]] = [[]] * TOOL_VALUES
    shapes: dict[str, Any] = {
        "chat_template_kwargs": {"a": many},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"enum": many}}}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": many}}},
    }
    answer = await front.chat("one", **{field: shapes[field]})
    assert answer.status == 400
    assert message in answer.error["message"]


@pytest.mark.parametrize("size", [2000, LARGE_BODY])
async def test_a_long_model_name_is_a_400_and_not_repeated(serve: Serve, size: int) -> None:
    answer = await (await serve()).chat("one", model="m" * size)
    assert (answer.status, answer.error["param"]) == (400, "model")
    assert len(answer.body) < 1000


async def test_a_long_word_is_not_repeated_in_a_refusal(serve: Serve) -> None:
    front = await serve()
    for field in ("tool_choice", "response_format"):
        value = "x" * LARGE_BODY if field == "tool_choice" else {"type": "x" * LARGE_BODY}
        answer = await front.chat("one", **{field: value})
        assert answer.status == 400
        assert len(answer.body) < 10_000


@pytest.mark.parametrize(
    ("contexts", "limit"),
    [
        ([], UNKNOWN_CONTEXT_BYTES),
        ([None], UNKNOWN_CONTEXT_BYTES),
        ([8192, None], UNKNOWN_CONTEXT_BYTES),
        ([8192], MIN_DEFAULT_LIMIT),
        ([8192, None, 1 << 20], (1 << 20) * BYTES_PER_TOKEN),
        ([1 << 24], MAX_DEFAULT_LIMIT),
    ],
)
def test_the_default_limit_follows_the_largest_context(
    contexts: list[int | None], limit: int
) -> None:
    assert default_limit(contexts) == limit


async def test_a_body_over_the_default_limit_is_a_413(serve: Serve) -> None:
    answer = await (await serve()).chat("x" * MIN_DEFAULT_LIMIT)
    assert answer.status == 413
    assert str(MIN_DEFAULT_LIMIT) in answer.error["message"]
