"""Large bodies: parsed by another process, with the same result."""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from mlx_worker.api import chat, completions, messages, responses, tokens, warm
from mlx_worker.api.packing import in_packs
from mlx_worker.api.parser import Parser
from mlx_worker.api.terms import Models
from mlx_worker.errors import InvalidRequest, MissingField, Unavailable, UnknownModel
from tests.scripted import PLENTY, alive, planned, running, scripted, soon

TURNS = [{"role": "user", "content": "Grüße\n" * 1000}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
BODIES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (chat.parse, {"messages": TURNS, "tools": TOOLS, "seed": 1, "n": 2, "logit_bias": {"7": 1}}),
    (chat.parse, {"messages": TURNS, "seed": 1, "response_format": {"type": "json_object"}}),
    (completions.parse, {"prompt": ["a", "b"], "seed": 1, "echo": True}),
    (completions.parse, {"prompt": [[1, 2], [3]], "seed": 1, "echo": True}),
    (responses.parse, {"input": "hello", "seed": 1, "metadata": {"a": "b"}}),
    (messages.parse, {"messages": TURNS, "seed": 1, "system": "be kind"}),
    (messages.parse_to_count, {"messages": TURNS}),
    (tokens.parse_to_tokenize, {"prompt": "hello"}),
    (tokens.parse_to_detokenize, {"tokens": [1, 2, 3]}),
    (warm.parse_to_warm, {"systemPrompt": "be kind"}),
]


@pytest.fixture
async def parser() -> AsyncIterator[Parser]:
    async with Parser() as it:
        yield it


@pytest.mark.parametrize(("parse", "body"), BODIES)
async def test_a_body_is_the_same_request_wherever_it_is_parsed(
    parser: Parser, parse: Callable[..., Any], body: dict[str, Any]
) -> None:
    data = json.dumps(body).encode()
    here, there = in_packs(parse(data)), await soon(parser.run(parse, body=data))
    assert type(here) is type(there)
    assert msgspec.json.encode(there, enc_hook=bytes) == msgspec.json.encode(here, enc_hook=bytes)


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"messages": []}', b'{"messages": 7, "n": 200}'])
async def test_a_refusal_is_the_same_wherever_it_is_made(parser: Parser, body: bytes) -> None:
    with pytest.raises(InvalidRequest) as here:
        chat.parse(body)
    with pytest.raises(InvalidRequest) as there:
        await soon(parser.run(chat.parse, body=body))
    assert type(there.value) is type(here.value)
    assert there.value.message == here.value.message
    assert there.value.param == here.value.param


async def test_a_missing_field_keeps_its_class(parser: Parser) -> None:
    with pytest.raises(MissingField):
        await soon(parser.run(warm.parse_to_warm, body=b"{}"))


async def test_one_process_parses_all_bodies(parser: Parser) -> None:
    first = await soon(parser.run(os.getpid))
    assert first != os.getpid()
    assert await soon(parser.run(os.getpid)) == first


async def test_a_process_that_was_killed_is_replaced(parser: Parser) -> None:
    first = await soon(parser.run(os.getpid))
    os.kill(first, signal.SIGKILL)
    assert await soon(parser.run(os.getpid)) != first


async def test_a_body_that_ends_the_process_is_given_up(parser: Parser) -> None:
    with pytest.raises(Unavailable):
        await soon(parser.run(os._exit, 7))
    assert await soon(parser.run(os.getpid)) != os.getpid()


async def test_a_caller_that_leaves_does_not_confuse_the_next(parser: Parser) -> None:
    pid = await soon(parser.run(os.getpid))
    left = asyncio.create_task(parser.run(time.strftime, "%%"))
    await asyncio.sleep(0)
    left.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await left
    assert await soon(parser.run(os.getpid)) == pid


async def test_an_error_that_is_no_refusal_is_an_error_here(parser: Parser) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        await soon(parser.run(divmod, 1, 0))
    assert await soon(parser.run(os.getpid)) != os.getpid()


async def test_the_process_ends_with_the_parser() -> None:
    async with Parser() as parser:
        pid = await soon(parser.run(os.getpid))
    assert not alive(pid)


async def test_what_a_process_knows_of_models_is_what_the_node_knows() -> None:
    models = (planned("a", aliases=("b",), max_concurrency=2, max_queue=3), planned("c"))
    async with running(*models, command=scripted(), memory_limit=PLENTY) as node:
        here = Models(node)
        there = pickle.loads(pickle.dumps(here))
        for name in ("a", "b", "c", None):
            assert there.places(name) == here.places(name)
            assert there.defaults(name) == here.defaults(name)
        with pytest.raises(UnknownModel):
            here.places("d")
        assert there.places("d") == here.places(None)
