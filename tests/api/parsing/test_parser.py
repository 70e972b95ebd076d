"""Large bodies: parsed by another process, with the same result."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_worker.api.dialects.model_terms import ModelSettings, ModelTerms, RequestCapacity
from mlx_worker.api.parsing import body_kinds, parser_frames, parser_process
from mlx_worker.api.parsing.body_kinds import BodyKind, parse
from mlx_worker.api.parsing.model_table import ModelTable, NodeModels
from mlx_worker.api.parsing.parser import BODY_TIMEOUT, COMMAND, LARGE_BODY, Parser
from mlx_worker.config.schema import Defaults
from mlx_worker.errors import (
    ConstraintTooCostly,
    InvalidRequest,
    MissingField,
    ProtocolViolation,
    Unavailable,
    UnknownModel,
    WorkerError,
)
from mlx_worker.limits import CALL_VALUES, CONSTRAINT_BYTES, TEMPLATE_VALUES, TOOL_VALUES
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.wire.request import LoopRule
from tests.loop_clock import LoopClock
from tests.rounds import variants
from tests.supervisor_harness import PLENTY, alive, eventually, planned, running, scripted, soon

PLAIN = ModelTerms(Defaults(), RequestCapacity("m", 5), ModelSettings(None, {}, (), {}, None))
SET = ModelTerms(
    Defaults(temperature=0.5, max_tokens=7),
    RequestCapacity("set", 5),
    ModelSettings("be kind", {"enable_thinking": False}, ("stop",), {"low": 9}, LoopRule(4, 256)),
)
TABLE = ModelTable({"m": PLAIN, "set": SET}, PLAIN, ["m", "set"], takes_any_name=False)

TURNS = [{"role": "user", "content": "Grüße\n" * 100}]
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALLED = [
    *TURNS,
    {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "x": [1.5]}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "done"},
]
SCHEMA = {"type": "object", "properties": {"ü": {"enum": ["é"]}}}
CHAT = body_kinds.GenerationBody("chat")
COMPLETION = body_kinds.GenerationBody("completions")
MESSAGE = body_kinds.GenerationBody("messages")
RESPONSE = body_kinds.GenerationBody("responses")

BODIES: list[tuple[BodyKind[Any], dict[str, Any]]] = [
    (CHAT, {"messages": TURNS, "tools": TOOLS, "n": 2, "logit_bias": {"7": 1}}),
    (CHAT, {"messages": CALLED, "stop": ["a"], "stream": True, "logprobs": True}),
    (CHAT, {"messages": TURNS, "tools": TOOLS, "tool_choice": "required"}),
    (CHAT, {"messages": TURNS, "structured_outputs": {"regex": "a+"}}),
    (CHAT, {"messages": TURNS, "structured_outputs": {"choice": ["a", "b"]}}),
    (CHAT, {"messages": TURNS, "response_format": {"type": "json_object"}}),
    (COMPLETION, {"prompt": "a", "logprobs": 3, "stream": True}),
    (COMPLETION, {"prompt": ["a", "b"], "echo": True, "n": 2}),
    (COMPLETION, {"prompt": [[1, 2], [3]], "echo": True}),
    (COMPLETION, {"prompt": [1, 2], "structured_outputs": {"json": SCHEMA}}),
    (
        RESPONSE,
        {"input": "hello", "metadata": {"a": "b"}, "tools": [{"type": "function"} | FUNCTION]},
    ),
    (RESPONSE, {"input": "hello", "text": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
    (RESPONSE, {"input": "hello", "reasoning": {"summary": "auto", "effort": "low"}}),
    (MESSAGE, {"messages": TURNS, "system": "be", "thinking": {"type": "enabled"}}),
    (
        MESSAGE,
        {"messages": TURNS, "stop_sequences": ["x"], "tools": [{"name": "f"}]},
    ),
    (body_kinds.CountBody(), {"messages": TURNS}),
    (body_kinds.TextToTokenize(), {"prompt": "hello"}),
    (body_kinds.TextToTokenize(), {"prompt": ""}),
    (body_kinds.TokensToDetokenize(), {"tokens": [1, 2, 3]}),
    (body_kinds.TokensToDetokenize(), {"tokens": []}),
    (body_kinds.PromptToWarm(), {"systemPrompt": "be kind"}),
    (body_kinds.LogLevelBody(), {"level": "debug"}),
]
KINDS: list[BodyKind[Any]] = list(dict(BODIES))
GENERATED: list[tuple[BodyKind[Any], dict[str, Any]]] = [
    (CHAT, {"messages": TURNS}),
    (RESPONSE, {"input": "hello"}),
    (MESSAGE, {"messages": TURNS}),
]
HELLO = b'{"prompt": "hello"}'


def large(data: bytes) -> bytes:
    """The same body with blanks after it, which mean nothing."""
    return data + b" " * LARGE_BODY


def watched() -> PauseDetector:
    """A detector of pauses that goes by the running loop."""
    return PauseDetector(asyncio.get_running_loop(), 0.5)


@pytest.fixture
async def parser() -> AsyncIterator[Parser]:
    async with Parser(watched()) as parser:
        yield parser


def pid_of_process() -> int:
    """The process that parses, of which this one has one at most."""
    (found,) = (
        child.pid
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "parser" in " ".join(child.cmdline())
    )
    return found


async def refusal_there(parser: Parser, ask: BodyKind[Any], data: bytes) -> WorkerError:
    with pytest.raises(WorkerError) as refused:
        await soon(parser.run(ask, TABLE, data))
    return refused.value


def refusal_here(ask: BodyKind[Any], data: bytes) -> WorkerError:
    with pytest.raises(WorkerError) as refused:
        parse(ask, data, TABLE)
    return refused.value


def said(error: WorkerError) -> tuple[Any, ...]:
    return type(error), error.message, error.param, error.retry_after


# --- the same calls, the same refusals -----------------------------------------------------


async def test_body_gives_the_same_request_in_both_processes(parser: Parser) -> None:
    for ask, body in BODIES:
        for model in ("m", "set", None):
            data = json.dumps(body | {"seed": 1, "model": model}).encode()
            here = parse(ask, data, TABLE)
            for sent in (data, large(data)):
                there = await soon(parser.run(ask, TABLE, sent))
                assert type(there) is type(here)
                assert there == here, body


async def test_body_is_refused_equally_in_both_processes(parser: Parser) -> None:
    bodies = [b"{", b"[]", b"{}", b'{"model": 7}', b'{"messages": 7, "n": 200}']
    refused = [(ask, data) for ask in KINDS for data in bodies]
    for ask, data in refused:
        here, there = refusal_here(ask, data), await refusal_there(parser, ask, data)
        assert said(there) == said(here)


async def test_unknown_model_is_refused_equally_in_both_processes(parser: Parser) -> None:
    for ask, body in GENERATED:
        data = json.dumps(body | {"model": "x"}).encode()
        here, there = refusal_here(ask, data), await refusal_there(parser, ask, data)
        assert isinstance(there, UnknownModel)
        assert said(there) == said(here)


async def test_missing_field_keeps_its_class(parser: Parser) -> None:
    assert isinstance(await refusal_there(parser, body_kinds.PromptToWarm(), b"{}"), MissingField)


async def test_shared_parts_of_prompts_are_sent_and_held_once(parser: Parser) -> None:
    bias = {str(token): 1 for token in range(10_000)}
    data = json.dumps({"prompt": ["a"] * 5, "logit_bias": bias}).encode()
    call = parse(COMPLETION, data, TABLE)
    answer = parser_frames.encode(parser_frames.answer_for(call))
    assert len(answer) < 2 * len(
        parser_frames.encode(
            parser_frames.answer_for(parse(COMPLETION, data.replace(b'"a", ', b""), TABLE))
        )
    )
    there = await soon(parser.run(COMPLETION, TABLE, data))
    assert len({id(chat.sampling.logit_bias) for chat in there.chats}) == 1


# --- what would be refused by a model's process --------------------------------------------


def lists(count: int) -> bytes:
    return b"[%b]" % b",".join([b"[]"] * count)


def costly(field: str, count: int) -> bytes:
    """A chat with a field of so many empty lists."""
    tool = b'[{"type":"function","function":{"name":"f"},"a":%b}]'
    value = {
        "chat_template_kwargs": b'"chat_template_kwargs":{"a":%b}',
        "tools": b'"tools":' + tool,
        "messages": b'"messages":[{"role":"assistant","tool_calls":[{"a":%b}]}]',
    }
    return b'{"messages":[{"role":"user","content":"a"}],%b}' % (value[field] % lists(count))


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("chat_template_kwargs", TEMPLATE_VALUES),
        pytest.param("tools", TOOL_VALUES, marks=pytest.mark.full),
        pytest.param("messages", CALL_VALUES, marks=pytest.mark.full),
    ],
)
async def test_too_many_template_values_are_refused_with_the_body(
    parser: Parser, field: str, most: int
) -> None:
    error = await refusal_there(parser, CHAT, costly(field, most))
    assert said(error) == (
        InvalidRequest,
        f"{field}: more than {most} values; at most {most}",
        field,
        None,
    )
    await soon(parser.run(CHAT, TABLE, costly(field, most - 20)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"structured_outputs": {"json": {"enum": ["x" * CONSTRAINT_BYTES]}}},
            "structured_outputs.json",
        ),
        ({"guided_regex": "a" * (CONSTRAINT_BYTES + 1)}, "guided_regex"),
        (
            {"structured_outputs": {"grammar": "a" * (CONSTRAINT_BYTES + 1)}},
            "structured_outputs.grammar",
        ),
        (
            {"structured_outputs": {"json": {"anyOf": [{"pattern": "a"}] * 201}}},
            "structured_outputs.json",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"enum": ["x" * CONSTRAINT_BYTES]}},
                    }
                ],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
)
async def test_costly_constraint_is_refused_with_the_body(
    fields: dict[str, Any], param: str
) -> None:
    error = refusal_here(CHAT, json.dumps({"messages": TURNS} | fields).encode())
    assert (type(error), error.param) == (ConstraintTooCostly, param)


LEFT_OUT = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}
SEARCH = {"type": "web_search_call", "id": "1", "status": "completed"}


@pytest.mark.parametrize(
    ("ask", "body", "param"),
    [
        (CHAT, {"messages": []}, "messages"),
        (MESSAGE, {"messages": [], "max_tokens": 1}, "messages"),
        (MESSAGE, {"messages": [LEFT_OUT], "max_tokens": 1}, "messages"),
        (
            MESSAGE,
            {"messages": [LEFT_OUT], "max_tokens": 1, "model": "set"},
            "messages",
        ),
        (body_kinds.CountBody(), {"messages": [{"role": "user", "content": []}]}, "messages"),
        (RESPONSE, {"input": []}, "input"),
        (RESPONSE, {"input": [SEARCH]}, "input"),
    ],
)
def test_empty_conversation_is_refused_by_its_field(
    ask: BodyKind[Any], body: dict[str, Any], param: str
) -> None:
    error = refusal_here(ask, json.dumps(body).encode())
    assert (type(error), error.param) == (InvalidRequest, param)
    assert error.message.startswith(f"{param}: ")


@pytest.mark.parametrize("field", ["guided_regex", "grammar", "ebnf"])
async def test_grammar_has_the_limit_of_a_schema(field: str) -> None:
    body = json.dumps({"messages": TURNS, field: "a" * CONSTRAINT_BYTES}).encode()
    assert parse(CHAT, body, TABLE).chats[0].constraint is not None


# --- the process ---------------------------------------------------------------------------


async def test_parser_uses_one_process_for_all_bodies(parser: Parser) -> None:
    await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    first = pid_of_process()
    await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    assert pid_of_process() == first


async def test_parser_replaces_a_killed_process(parser: Parser) -> None:
    await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    first = pid_of_process()
    os.kill(first, signal.SIGKILL)
    await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    assert pid_of_process() != first


NEVER_ANSWERS = "import time; time.sleep(600)"
ENDS_AT_ONCE = "import sys; sys.exit(7)"
ANSWERS_GARBAGE = "import os; os.write(1, b'\\xff' * 100); os.read(0, 1)"
ANSWERS_NO_MESSAGE = "import os; os.write(1, bytes(7) + b'\\x01\\xc1'); os.read(0, 1)"


@pytest.mark.parametrize("code", [ENDS_AT_ONCE, ANSWERS_GARBAGE, ANSWERS_NO_MESSAGE])
async def test_parser_gives_up_a_process_that_does_not_answer(code: str) -> None:
    async with Parser(watched(), [sys.executable, "-c", code]) as parser:
        with pytest.raises(Unavailable):
            await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))


async def test_parser_does_not_count_time_in_which_the_machine_slept() -> None:
    clock = LoopClock()
    command = [sys.executable, "-c", NEVER_ANSWERS]
    async with Parser(PauseDetector(clock, 1.0), command) as parser:
        parsing = asyncio.ensure_future(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))

        async def is_started() -> bool:
            return parser._process is not None

        await eventually(is_started)
        first = parser._process
        clock.run(BODY_TIMEOUT - 1)
        clock.stop(3600)
        clock.run(BODY_TIMEOUT - 1)
        await asyncio.sleep(0)
        assert parser._process is first
        assert not parsing.done()
        clock.run(2)

        async def is_replaced() -> bool:
            return parser._process not in (None, first)

        await eventually(is_replaced)
        parsing.cancel()


async def test_process_ends_at_an_invalid_frame_and_is_replaced(
    parser: Parser,
) -> None:
    await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    first = pid_of_process()
    process = parser._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.write(b"\xff" * parser_frames.HEADER)
    assert await soon(process.wait()) == parser_process.NO_QUESTION
    await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    assert pid_of_process() != first


def framed(payload: bytes) -> bytes:
    return parser_frames.frame_header(payload) + payload


UNKNOWN_QUESTION = framed(b"\x82\xa3ask\x81\xa3ask\xa4Evil\xa6models\x80") + framed(b"")
INVALID_QUESTIONS = [
    b"\xff" * 8,
    b"short",
    parser_frames.frame_header(b"a frame") + b"cut",
    framed(b"\xc1") + framed(b""),
    framed(b"\x80") + framed(b""),
    UNKNOWN_QUESTION,
]


@pytest.mark.parametrize("written", variants(INVALID_QUESTIONS, [b"short", UNKNOWN_QUESTION]))
def test_process_exits_with_an_error_at_an_invalid_question(written: bytes) -> None:
    done = subprocess.run(COMMAND, input=written, capture_output=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (parser_process.NO_QUESTION, b"")


def test_process_exits_at_the_end_of_its_input() -> None:
    done = subprocess.run(COMMAND, input=b"", capture_output=True, check=False, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_cancelled_caller_leaves_the_pipe_usable(parser: Parser) -> None:
    await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    pid = pid_of_process()
    left = asyncio.create_task(
        parser.run(body_kinds.TextToTokenize(), TABLE, b'{"prompt": "other"}')
    )
    await asyncio.sleep(0)
    left.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await left
    _, asked = await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    assert asked is not None
    assert bytes(memoryview(asked.prompt)) == b"\xa5hello"  # type: ignore[arg-type]
    assert pid_of_process() == pid


def test_unexpected_error_in_the_process_is_raised_here() -> None:
    class Broken:
        def terms(self, _name: str | None) -> ModelTerms:
            raise ZeroDivisionError

    question = parser_frames.ParsingQuestion(CHAT, Broken())  # type: ignore[arg-type]
    answer = parser_process.parse_in_process(question, json.dumps({"messages": TURNS}).encode())
    there = parser_frames.decode_answer(parser_frames.encode(answer))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        there.result()


def test_invalid_answer_is_a_protocol_violation() -> None:
    with pytest.raises(ProtocolViolation, match="no message"):
        parser_frames.decode_answer(b'{"is": "Parsed"}')


TELLS_ITS_ENVIRONMENT = """
import json, os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(json.dumps(dict(os.environ)))
"""


async def test_process_environment_has_no_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hush")
    monkeypatch.setenv("MLX_WORKER_API_KEY", "sk-hush")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hush")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    told = tmp_path / "environment"
    async with Parser(
        watched(), [sys.executable, "-c", TELLS_ITS_ENVIRONMENT, str(told)]
    ) as parser:
        with pytest.raises(Unavailable):
            await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
    inherited = json.loads(told.read_text())
    assert "hush" not in " ".join(inherited.values())
    assert inherited["LC_ALL"] == "C.UTF-8"


async def test_process_ends_with_the_parser() -> None:
    async with Parser(watched()) as parser:
        await soon(parser.run(body_kinds.TextToTokenize(), TABLE, HELLO))
        pid = pid_of_process()
    assert not alive(pid)


@pytest.mark.parametrize("default", ["", "c"])
async def test_model_table_equals_the_terms_of_the_node(default: str) -> None:
    models = (
        planned("a", aliases=("b",), max_concurrency=2, max_queue=3),
        planned("c", default=bool(default)),
    )
    async with running(*models, launcher=scripted(), memory_limit=PLENTY) as node:
        here = NodeModels(node)
        asked = parser_frames.ParsingQuestion(CHAT, here.table())
        there = parser_frames.decode_question(parser_frames.encode(asked)).models
        for name in ("a", "b", "c", None, *(["d"] if default else [])):
            assert there.terms(name) == here.terms(name)
        if not default:
            for terms in (here, there):
                with pytest.raises(UnknownModel, match="'d'; this node has: a, c"):
                    terms.terms("d")
