"""Tools, reasoning and choices through a real node, a real model and the client that callers use.

The model speaks at random: `force_output` has it say what a test wants.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.forced_output import force_output
from tests.synthetic_models import CALL, CALL_PARTS, CALLED, IM_END, THINK, THOUGHT

if TYPE_CHECKING:
    from tests.processes import RunningNode

OPENING, RIVER, MOON = CALL_PARTS
LOOK = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {}}}},
}
ASK: dict[str, Any] = {"model": "caller", "tools": [LOOK], "max_tokens": 12}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def node(caller_node: RunningNode) -> RunningNode:
    return caller_node


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    """A completion. Untyped: the client's types know no fields of ours."""
    asked: dict[str, Any] = {"messages": HELLO, **ASK, **fields}
    return client.chat.completions.create(**asked)


def chunks_of(client: openai.OpenAI, **fields: Any) -> list[Any]:
    return list(ask(client, **fields, stream=True))


def test_a_call_comes_whole(client: openai.OpenAI, tokenizer: Any) -> None:
    said = force_output(tokenizer, THOUGHT, CALL, OPENING, RIVER, CALLED, IM_END)
    choice = ask(client, **said).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "look"
    assert json.loads(call.function.arguments) == {"at": "the river"}


def test_reasoning_then_content_then_a_call_come_whole_and_streamed_alike(
    client: openai.OpenAI, tokenizer: Any
) -> None:
    said = force_output(tokenizer, "!", THOUGHT, "?", CALL, OPENING, MOON, CALLED, IM_END)
    message = ask(client, **said, seed=5).choices[0].message
    (call,) = message.tool_calls or []
    assert call.type == "function"
    assert message.reasoning_content == message.reasoning == "!"
    assert message.content == "?"

    chunks = chunks_of(client, **said, seed=5)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "!"
    assert "".join(delta.content or "" for delta in deltas) == "?"
    named, rest = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert (named.index, named.id, named.function.name) == (0, call.id, "look")
    assert (rest.index, named.function.arguments + rest.function.arguments) == (
        0,
        call.function.arguments,
    )
    assert [item.choices[0].finish_reason for item in chunks if item.choices[0].finish_reason] == [
        "tool_calls"
    ]


@pytest.mark.parametrize(("parallel", "content"), [(True, "?"), (False, None)])
def test_a_call_is_the_end_where_calls_side_by_side_are_declined(
    client: openai.OpenAI, tokenizer: Any, parallel: bool, content: str | None
) -> None:
    said = force_output(tokenizer, THOUGHT, CALL, OPENING, RIVER, CALLED, "?", IM_END)
    choice = ask(client, **said, parallel_tool_calls=parallel).choices[0]
    assert len(choice.message.tool_calls or []) == 1
    assert choice.message.content == content
    assert choice.finish_reason == "tool_calls"


def test_a_call_that_is_none_is_content_with_a_warning(
    client: openai.OpenAI, tokenizer: Any
) -> None:
    said = force_output(tokenizer, THOUGHT, CALL, OPENING, CALLED, IM_END)
    choice = ask(client, **said).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == OPENING
    assert choice.message.tool_calls is None
    assert choice.warnings[0].startswith("not a tool call")


def test_a_call_that_the_token_limit_cuts_is_content_with_a_warning(
    client: openai.OpenAI, tokenizer: Any
) -> None:
    said = force_output(tokenizer, THOUGHT, CALL, OPENING, RIVER, CALLED)
    choice = ask(client, **said, max_tokens=4).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content == OPENING + RIVER
    assert choice.warnings == ["the tool call was cut short by the token limit"]


def test_a_loop_of_two_turns_carries_the_call_and_its_answer(
    client: openai.OpenAI, tokenizer: Any
) -> None:
    places = {"the river": "It is wide."}
    said = force_output(tokenizer, THOUGHT, CALL, OPENING, RIVER, CALLED, IM_END)
    first = ask(client, **said)
    message = first.choices[0].message
    (call,) = message.tool_calls or []
    assert call.type == "function"
    seen = places[json.loads(call.function.arguments)["at"]]
    turns: Any = [
        *HELLO,
        message,
        {"role": "tool", "tool_call_id": call.id, "content": seen},
    ]
    second = ask(client, messages=turns, **force_output(tokenizer, THOUGHT, "?", IM_END))
    assert second.choices[0].message.content == "?"
    assert second.choices[0].finish_reason == "stop"
    assert first.usage
    assert second.usage
    text = tokenizer.apply_chat_template(
        [
            *HELLO,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "look", "arguments": {"at": "the river"}}}],
            },
            {"role": "tool", "content": seen},
        ],
        tools=[LOOK],
        add_generation_prompt=True,
    )
    assert second.usage.prompt_tokens == len(text)


def test_thinking_can_be_switched_off(client: openai.OpenAI, tokenizer: Any) -> None:
    said = force_output(tokenizer, "?", THINK, "!", THOUGHT, IM_END)
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    message = ask(client, **said, extra_body=off).choices[0].message
    assert message.content == "?"
    assert message.reasoning == "!"


def test_the_head_with_tools_is_shared_by_the_next_chat(client: openai.OpenAI) -> None:
    def asked(text: str, **more: Any) -> tuple[str, int]:
        raw = client.chat.completions.with_raw_response.create(
            messages=[{"role": "user", "content": text}], **(ASK | more)
        )
        usage = raw.parse().usage
        assert usage
        assert usage.prompt_tokens_details
        return raw.headers["X-Cache-Hit"], usage.prompt_tokens_details.cached_tokens or 0

    other = LOOK | {"function": {"name": "listen", "parameters": {}}}
    hit, _ = asked("Good day", tools=[other])
    assert hit == "false"
    hit, cached = asked("Good evening", tools=[other])
    assert hit == "true"
    assert cached > 20


def test_calls_cannot_be_required_where_there_are_no_tools(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, tools=[], tool_choice="required")
    assert refused.value.param == "tool_choice"


# --- choices, seeds, fingerprints -------------------------------------------------------------


SAMPLED: dict[str, Any] = {"tools": [], "max_tokens": 16, "temperature": 1.0}


def test_the_seed_of_an_answer_makes_it_again(client: openai.OpenAI) -> None:
    first = ask(client, **SAMPLED, n=3)
    again = ask(client, **SAMPLED, n=3, seed=first.seed)
    other = ask(client, **SAMPLED, n=3)
    said = [choice.message.reasoning for choice in first.choices]
    assert len(set(said)) == 3
    assert [choice.message.reasoning for choice in again.choices] == said
    assert (again.seed, again.system_fingerprint) == (first.seed, first.system_fingerprint)
    assert [choice.message.reasoning for choice in other.choices] != said


def test_the_choices_of_a_stream_are_those_of_the_whole_answer(client: openai.OpenAI) -> None:
    whole = ask(client, **SAMPLED, n=3, seed=5)
    chunks = chunks_of(client, **SAMPLED, n=3, seed=5)
    assert [chunk.seed for chunk in chunks[:3]] == [5] * 3
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}
    said = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            said[choice.index] += getattr(choice.delta, "reasoning", "")
    assert said == [choice.message.reasoning for choice in whole.choices]


def test_the_first_choice_is_the_answer_that_is_given_alone(client: openai.OpenAI) -> None:
    alone = ask(client, **SAMPLED, seed=3).choices[0].message
    first = ask(client, **SAMPLED, seed=3, n=2).choices[0].message
    assert first.reasoning == alone.reasoning
