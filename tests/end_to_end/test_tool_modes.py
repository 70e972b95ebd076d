"""Tools at models whose chat template has no tool calls, in every dialect, streamed and whole.

The models are one folder with a template of the configuration's in place of its own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.bench.synthetic.tokenizer import CHAT_TEMPLATE
from tests.dialects import (
    CHAT,
    CHATS,
    LOOK,
    MESSAGES,
    RESPONSES,
    Dialect,
    ReceivedAnswer,
)
from tests.forced_output import force_output
from tests.sse import events_of
from tests.synthetic_models import CALL, CALL_PARTS, CALLED, IM_END, THINK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import StartNode
    from tests.processes import RunningNode

pytestmark = pytest.mark.full  # by default `tests/engine/templates/test_tool_offer.py`
OPENING, RIVER, _ = CALL_PARTS
MODES = ("refuse", "ignore", "prompt")
LEFT_OUT = "tools: this model's chat template has no tool calls; the tools were left out"
TOOLS: dict[str, list[Any]] = {
    CHAT.name: [{"type": "function", "function": LOOK}],
    RESPONSES.name: [{"type": "function", **LOOK}],
    MESSAGES.name: [{"name": LOOK["name"], "input_schema": LOOK["parameters"]}],
}
REQUIRED: dict[str, Any] = {
    CHAT.name: "required",
    RESPONSES.name: {"type": "function", "name": "look"},
    MESSAGES.name: {"type": "any"},
}
"""A client's loop after one call: what was asked, the call, what it returned."""
HISTORY: dict[str, dict[str, Any]] = {
    CHAT.name: {
        "messages": [
            {"role": "user", "content": "Look!"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at": "the river"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "It is wide."},
        ]
    },
    RESPONSES.name: {
        "input": [
            {"role": "user", "content": "Look!"},
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "look",
                "arguments": '{"at": "the river"}',
            },
            {"type": "function_call_output", "call_id": "c1", "output": "It is wide."},
        ]
    },
    MESSAGES.name: {
        "messages": [
            {"role": "user", "content": "Look!"},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "the river"}}
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "It is wide."}],
            },
        ]
    },
}


@pytest.fixture(scope="module")
def node(
    start_node: StartNode, caller: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunningNode:
    folder = tmp_path_factory.mktemp("node")
    (folder / "plain.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    extra = {mode: f'chat_template = "plain.jinja"\ntools = "{mode}"' for mode in MODES}
    extra["refuse"] += "\npreload = false"
    return start_node(dict.fromkeys(MODES, caller), folder=folder, extra=extra)


def ask(node: RunningNode, dialect: Dialect, model: str, **fields: Any) -> ReceivedAnswer:
    """The answer, which is the same whole and streamed; `tools` and what must be said are given."""
    body = dialect.body("Hello", model=model, tools=TOOLS[dialect.name]) | fields
    whole = node.ask(dialect.path, body | {dialect.limit: 24})
    assert whole.status == 200, whole.body
    streamed = node.ask(dialect.path, body | {dialect.limit: 24, "stream": True})
    received = dialect.read_stream(events_of(streamed.body))
    told = dialect.read_full(whole.json)
    assert (told.text, told.reasoning, told.finish) == (
        received.text,
        received.reasoning,
        received.finish,
    )
    assert [call[1:] for call in told.calls] == [call[1:] for call in received.calls]
    assert told.warnings == received.warnings
    return told


def read(received: ReceivedAnswer) -> int:
    """Tokens of its prompt."""
    assert received.usage is not None
    return received.usage.prompt


@pytest.mark.full
@pytest.mark.parametrize("dialect", CHATS, ids=repr)
def test_a_model_that_refuses_tools_says_so(node: RunningNode, dialect: Dialect) -> None:
    body = dialect.body("Hello", model="refuse", tools=TOOLS[dialect.name])
    answer = node.ask(dialect.path, body | {dialect.limit: 4})
    assert answer.status == 400
    assert "has no tool calls" in dialect.read_error(answer.json)


@pytest.mark.full
@pytest.mark.parametrize("dialect", CHATS, ids=repr)
def test_a_model_that_ignores_tools_answers_as_if_there_were_none(
    node: RunningNode, dialect: Dialect
) -> None:
    received = ask(node, dialect, "ignore", seed=3)
    plain = node.ask(
        dialect.path, dialect.body("Hello", model="refuse", seed=3) | {dialect.limit: 24}
    )
    without = dialect.read_full(plain.json)
    assert (received.text, read(received)) == (without.text, read(without))
    assert (received.warnings, without.warnings) == ([LEFT_OUT], [])


@pytest.mark.parametrize("dialect", CHATS, ids=repr)
def test_a_call_that_is_required_cannot_be_ignored(node: RunningNode, dialect: Dialect) -> None:
    body = dialect.body("Hello", model="ignore", tools=TOOLS[dialect.name])
    answer = node.ask(dialect.path, body | {"tool_choice": REQUIRED[dialect.name]})
    assert answer.status == 400
    assert dialect.read_error(answer.json).startswith("tool_choice: ")


@pytest.mark.parametrize("dialect", CHATS, ids=repr)
def test_a_prompted_model_is_told_of_tools_and_its_calls_are_read(
    node: RunningNode, dialect: Dialect, tokenizer: Any
) -> None:
    said = force_output(tokenizer, CALL, OPENING, RIVER, CALLED, IM_END)
    received = ask(node, dialect, "prompt", seed=3, **said)
    assert [(name, arguments) for _, name, arguments in received.calls] == [
        ("look", {"at": "the river"})
    ]
    assert (received.text, received.finish, received.warnings) == ("", "tool_calls", [])
    body = dialect.body("Hello", model="prompt") | {dialect.limit: 1}
    without = dialect.read_full(node.ask(dialect.path, body).json)
    assert read(received) > read(without) + 50, "the tools were described"


@pytest.mark.parametrize("dialect", CHATS, ids=repr)
def test_a_prompted_model_can_be_made_to_call(
    node: RunningNode, dialect: Dialect, tokenizer: Any
) -> None:
    (think,) = tokenizer.encode(THINK)
    body = dialect.body("Hello", model="prompt", tools=TOOLS[dialect.name]) | {
        "tool_choice": REQUIRED[dialect.name],
        "logit_bias": {str(think): -100},
        "seed": 3,
        dialect.limit: 400,
    }
    received = dialect.read_full(node.ask(dialect.path, body).json)
    assert received.text == ""
    if received.finish == "tool_calls":
        assert all(name == "look" and isinstance(said, dict) for _, name, said in received.calls)
    else:
        assert received.finish == "length", "random arguments may go on for ever, as a call"


@pytest.mark.parametrize("model", ["ignore", "prompt"])
@pytest.mark.parametrize("dialect", CHATS, ids=repr)
def test_calls_and_results_of_before_are_text_to_such_a_model(
    node: RunningNode, dialect: Dialect, model: str
) -> None:
    received = ask(node, dialect, model, **HISTORY[dialect.name], seed=3)
    equal = (
        dialect.body("")
        | {
            CHAT.name: {"messages": TOLD},
            MESSAGES.name: {"messages": TOLD},
            RESPONSES.name: {"input": TOLD},
        }[dialect.name]
    )
    again = ask(node, dialect, model, **equal, seed=3)
    assert (received.text, read(received)) == (again.text, read(again))


CALL_TEXT = '<tool_call>\n{"name": "look", "arguments": {"at": "the river"}}\n</tool_call>'
TOLD = [
    {"role": "user", "content": "Look!"},
    {"role": "assistant", "content": CALL_TEXT},
    {"role": "user", "content": "<tool_response>\nIt is wide.\n</tool_response>"},
]
"""What such a model reads of the history."""


def test_counted_tokens_are_those_that_would_be_read(node: RunningNode) -> None:
    body = MESSAGES.body("Hello", tools=TOOLS[MESSAGES.name])
    for model in ("ignore", "prompt"):
        counted = node.ask("/v1/messages/count_tokens", body | {"model": model}).json
        said = node.ask(MESSAGES.path, body | {"model": model, "max_tokens": 1})
        assert counted["input_tokens"] == read(MESSAGES.read_full(said.json))


def test_every_choice_is_warned(node: RunningNode) -> None:
    body = CHAT.body("Hello", model="ignore", tools=TOOLS[CHAT.name], n=2, max_tokens=2)
    said = json.loads(node.ask(CHAT.path, body).body)
    assert [choice["warnings"] for choice in said["choices"]] == [[LEFT_OUT]] * 2
