"""Answers of a shape, by the clients that callers use, from a real node and a real model.

The model says anything: what comes back fits because nothing else could be said.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal

import anthropic
import openai
import pydantic
import pytest

if TYPE_CHECKING:
    from tests.processes import RunningNode

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {"at": {"enum": ["the river", "the moon"]}},
    "required": ["at"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "look", "parameters": PLACE}}]
CLAUDES_TOOLS: list[Any] = [{"name": "look", "input_schema": PLACE}]


class Person(pydantic.BaseModel):
    """What is to be parsed."""

    age: Literal[7, 70]
    kind: Literal["miller", "queen"]
    friends: list[Person] = pydantic.Field(max_length=1)


@pytest.fixture(scope="module")
def node(caller_node: RunningNode) -> RunningNode:
    return caller_node


def test_a_chat_is_parsed_into_a_class(client: openai.OpenAI, unthinking: dict[str, Any]) -> None:
    parsed = client.chat.completions.parse(
        model="caller", messages=HELLO, response_format=Person, extra_body=unthinking
    )
    assert parsed.choices[0].finish_reason == "stop"
    assert isinstance(parsed.choices[0].message.parsed, Person)


def test_a_response_is_parsed_into_a_class_and_repeats_its_format(
    client: openai.OpenAI, unthinking: dict[str, Any]
) -> None:
    parsed = client.responses.parse(
        model="caller", input=HELLO, text_format=Person, extra_body=unthinking
    )
    assert isinstance(parsed.output_parsed, Person)
    assert parsed.text
    assert parsed.text.format
    assert parsed.text.format.type == "json_schema"


def test_a_message_fits_the_schema_of_its_output_format(
    claude: anthropic.Anthropic, unthinking: dict[str, Any]
) -> None:
    output: Any = {"format": {"type": "json_schema", "schema": PLACE}}
    answer = claude.messages.create(
        model="caller",
        messages=HELLO,
        max_tokens=300,
        output_config=output,
        extra_body=unthinking,
    )
    (block,) = answer.content
    assert block.type == "text"
    assert json.loads(block.text)["at"] in PLACE["properties"]["at"]["enum"]
    assert answer.stop_reason == "end_turn"


def test_several_choices_are_bound_each_by_itself_streamed_and_whole(
    client: openai.OpenAI, unthinking: dict[str, Any]
) -> None:
    wanted = {"structured_outputs": {"regex": "[a-c]{8}"}} | unthinking
    asked: dict[str, Any] = {"model": "caller", "messages": HELLO, "n": 3, "extra_body": wanted}
    whole = [item.message.content for item in client.chat.completions.create(**asked).choices]
    assert all(re.fullmatch("[a-c]{8}", item or "") for item in whole)
    assert len(set(whole)) > 1
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == whole


def test_a_completion_is_one_of_the_choices(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="caller",
        prompt="Yes or no?",
        extra_body={"structured_outputs": {"choice": ["yes", "no"]}},
    )
    assert answer.choices[0].text in ("yes", "no")
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_forced_call_is_whole_and_streamed_as_a_free_one_is(
    client: openai.OpenAI, unthinking: dict[str, Any], choice: Any
) -> None:
    asked: dict[str, Any] = {
        "model": "caller",
        "messages": HELLO,
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "extra_body": unthinking,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    (call,) = whole.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "look"
    assert json.loads(call.function.arguments)["at"] in ("the river", "the moon")
    chunks = [
        item.choices[0]
        for item in client.chat.completions.create(**asked, stream=True)
        if item.choices
    ]
    named, *rest = [item for chunk in chunks for item in chunk.delta.tool_calls or []]
    assert (named.index, named.id, named.function and named.function.name) == (0, call.id, "look")
    arguments = [item.function.arguments or "" for item in (named, *rest) if item.function]
    assert "".join(arguments) == call.function.arguments
    assert [item.finish_reason for item in chunks if item.finish_reason] == ["tool_calls"]


def test_a_response_can_be_made_to_call(client: openai.OpenAI, unthinking: dict[str, Any]) -> None:
    flat: Any = {"type": "function", "name": "look", "parameters": PLACE, "strict": True}
    answer = client.responses.create(
        model="caller",
        input=HELLO,
        tools=[flat],
        tool_choice={"type": "function", "name": "look"},
        extra_body=unthinking,
    )
    (call,) = answer.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["at"] in ("the river", "the moon")


@pytest.mark.parametrize(
    "choice",
    [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "look"}],
)
def test_a_message_can_be_made_to_use_a_tool(
    claude: anthropic.Anthropic, unthinking: dict[str, Any], choice: Any
) -> None:
    answer = claude.messages.create(
        model="caller",
        messages=HELLO,
        max_tokens=300,
        tools=CLAUDES_TOOLS,
        tool_choice=choice,
        extra_body=unthinking,
    )
    assert answer.stop_reason == "tool_use"
    (block,) = answer.content
    assert block.type == "tool_use"
    assert block.name == "look"
    assert block.input["at"] in ("the river", "the moon")


def test_a_schema_that_cannot_be_kept_is_refused_before_the_answer_with_its_place(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": bad}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="caller", messages=HELLO, response_format=form, stream=True
        )
    assert refused.value.param == "response_format.json_schema.schema.properties.a"
    assert "uniqueItems" in refused.value.message
    output: Any = {"format": {"type": "json_schema", "schema": bad}}
    with pytest.raises(anthropic.BadRequestError) as refused_too:
        claude.messages.create(model="caller", messages=HELLO, max_tokens=9, output_config=output)
    assert "output_config.format.schema.properties.a: " in refused_too.value.message


def test_a_grammar_that_is_none_is_refused_with_its_line(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="caller",
            messages=HELLO,
            extra_body={"structured_outputs": {"grammar": 'start: a\na: "x" b\n'}},
        )
    assert refused.value.param == "structured_outputs.grammar"
    assert "at 2(4)" in refused.value.message
