"""The made model of the client tests talks by its rule, through the whole node."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.talk import GREETING, answer
from tests.clients.talking_model import make_talker
from tests.processes import RunningNode, running_node

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.clients


NODE = (sys.executable, str(Path(__file__).with_name("talking_node.py")))
LOOK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look there.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
ASKS = 'Go. [[call: look {"at": "the river"}]] [[tell]]'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["title", "count"],
    "additionalProperties": False,
}


def prompt(*turns: tuple[str, str]) -> str:
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)


def test_answer_without_a_directive_is_the_greeting() -> None:
    assert answer(prompt(("system", "[[say: no]]"), ("user", "hello"))) == GREETING


def test_answer_follows_the_newest_user_turn_with_directives() -> None:
    turns = (("user", "[[say: one]]"), ("assistant", "one"), ("user", "[[say: two]]"))
    assert answer(prompt(*turns)) == "two"
    assert answer(prompt(*turns, ("user", "a reminder"))) == "two"


def test_answer_takes_one_directive_a_turn_and_repeats_the_last() -> None:
    asked = ("user", "[[say: one]] [[say: two]]")
    said = ("assistant", "said")
    assert answer(prompt(asked)) == "one"
    assert answer(prompt(asked, said)) == "two"
    assert answer(prompt(asked, said, said)) == "two"


def test_answer_calls_only_what_is_offered() -> None:
    offered = ("tools", '{"function": {"name": "look"}}')
    assert answer(prompt(offered, ("user", ASKS))).startswith("<tool_call>")
    assert answer(prompt(("user", ASKS))) == "There is no tool look here."


def test_answer_tells_the_newest_result() -> None:
    turns = (("user", ASKS), ("assistant", "a call"), ("tool", "wide"))
    assert answer(prompt(*turns)) == "The tool said: wide"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("talker")
    models = {"talker": make_talker(folder / "model", context=4096)}
    with running_node(folder, models, command=NODE) as running:
        running.wait_until_ready()
        yield running


def said(node: RunningNode, messages: list[dict[str, Any]], **fields: Any) -> Any:
    body = {"model": "talker", "messages": messages, **fields}
    answered = node.ask("/v1/chat/completions", body)
    assert answered.status == 200, answered.body
    return answered.json["choices"][0]["message"]


def test_a_tool_loop_runs_through_the_node(node: RunningNode) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": ASKS}]
    call = said(node, messages, tools=[LOOK])
    (one,) = call["tool_calls"]
    assert json.loads(one["function"]["arguments"]) == {"at": "the river"}
    messages += [call, {"role": "tool", "tool_call_id": one["id"], "content": "It is wide."}]
    assert said(node, messages, tools=[LOOK])["content"] == "The tool said: It is wide."


def test_a_shape_is_filled_where_the_rule_has_no_words_for_it(node: RunningNode) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SCHEMA}}
    filled = said(node, [{"role": "user", "content": "hello"}], response_format=shape)
    assert json.loads(filled["content"]) == {"title": "", "count": 0}


def test_a_completion_goes_on_with_the_row_of_words(node: RunningNode) -> None:
    body = {"model": "talker", "prompt": "Once", "max_tokens": 3}
    answered = node.ask("/v1/completions", body).json
    assert answered["choices"][0]["text"] == " one two three"
