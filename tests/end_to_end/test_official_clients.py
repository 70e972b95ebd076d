"""OpenAI's and Anthropic's own clients against a real node and a real model.

Responses, messages and completions; `test_tools` has chat completions. The model speaks at random:
`force_output` has it say what a test wants.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tests.forced_output import force_output
from tests.synthetic_models import CALL, CALL_PARTS, CALLED, IM_END, THOUGHT

if TYPE_CHECKING:
    from tests.processes import RunningNode

OPENING, RIVER, _ = CALL_PARTS
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"at": {"type": "string"}}}
PLACES = {"the river": "It is wide."}


def look(at: str) -> str:
    """The tool: really called, with what the model said."""
    return PLACES[at]


@pytest.fixture(scope="module")
def node(caller_node: RunningNode) -> RunningNode:
    return caller_node


@pytest.fixture
def a_call(tokenizer: Any) -> dict[str, Any]:
    """It thinks, speaks and calls."""
    return force_output(tokenizer, "!", THOUGHT, "?", CALL, OPENING, RIVER, CALLED, IM_END)


@pytest.fixture
def an_end(tokenizer: Any) -> dict[str, Any]:
    """It thinks nothing and says one word."""
    return force_output(tokenizer, THOUGHT, "?", IM_END)


# --- OpenAI: responses ----------------------------------------------------------------------

FLAT: Any = {"type": "function", "name": "look", "parameters": SCHEMA, "strict": False}
INPUT: list[Any] = [{"role": "user", "content": "Hello"}]


def respond(client: openai.OpenAI, said: dict[str, Any], **fields: Any) -> Any:
    asked: dict[str, Any] = {
        "model": "caller",
        "input": INPUT,
        "tools": [FLAT],
        "max_output_tokens": 12,
        **fields,
    }
    return client.responses.create(**asked, extra_body=said)


def test_a_response_has_reasoning_words_and_calls_as_items(
    client: openai.OpenAI, a_call: dict[str, Any]
) -> None:
    response = respond(client, a_call)
    assert response.status == "completed"
    assert response.output_text == "?"
    reasoning, message, call = response.output
    assert [part.text for part in reasoning.content] == ["!"]
    assert message.content[0].text == "?"
    assert json.loads(call.arguments) == {"at": "the river"}
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens == 8
    assert usage.output_tokens_details.reasoning_tokens == 2


def test_the_clients_own_gathering_of_a_stream_is_the_response(
    client: openai.OpenAI, a_call: dict[str, Any]
) -> None:
    whole = respond(client, a_call)
    with client.responses.stream(
        model="caller", input=INPUT, tools=[FLAT], max_output_tokens=12, extra_body=a_call
    ) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        gathered = stream.get_final_response()
    assert text == whole.output_text
    assert [item.type for item in gathered.output] == [item.type for item in whole.output]
    assert gathered.output_text == whole.output_text
    assert gathered.usage
    assert gathered.usage.output_tokens == whole.usage.output_tokens


def test_a_loop_of_two_turns_really_calls_the_function_by_responses(
    client: openai.OpenAI, a_call: dict[str, Any], an_end: dict[str, Any], tokenizer: Any
) -> None:
    first = respond(client, a_call)
    call = first.output[-1]
    seen = look(**json.loads(call.arguments))
    output = {"type": "function_call_output", "call_id": call.call_id, "output": seen}
    second = respond(client, an_end, input=[*INPUT, *first.output, output])
    assert second.output_text == "?"
    assert second.usage.input_tokens == len(_second_prompt(tokenizer))


def test_a_response_that_the_limit_cut_is_incomplete(
    client: openai.OpenAI, a_call: dict[str, Any]
) -> None:
    response = respond(client, a_call, max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    last = [*respond(client, a_call, max_output_tokens=3, stream=True)][-1]
    assert last.type == "response.incomplete"


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"previous_response_id": "resp_1"}, openai.BadRequestError, "previous_response_id"),
        ({"tools": [], "tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
        ({"max_output_tokens": -1}, openai.BadRequestError, "max_output_tokens"),
        ({"input": []}, openai.BadRequestError, "input"),
    ],
)
def test_refusals_are_the_clients_own_errors(
    client: openai.OpenAI, fields: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(kind) as refused:
        respond(client, {}, **fields)
    assert refused.value.param == param


# --- OpenAI: completions ----------------------------------------------------------------------


def test_a_completion_is_the_same_by_text_and_by_tokens_streamed_and_whole(
    client: openai.OpenAI, tokenizer: Any
) -> None:
    text = "<|im_start|>user\nHello<|im_end|>\n"
    asked: dict[str, Any] = {"model": "caller", "max_tokens": 8}
    by_text = client.completions.create(prompt=text, **asked)
    by_tokens = client.completions.create(prompt=tokenizer.encode(text), **asked)
    chunks = client.completions.create(prompt=text, **asked, stream=True)
    assert by_text.choices[0].text
    assert by_text.choices[0].finish_reason == "length"
    assert by_tokens.choices[0].text == by_text.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in chunks) == by_text.choices[0].text
    assert by_text.usage
    assert by_text.usage.prompt_tokens == len(tokenizer.encode(text))


def test_several_prompts_have_their_choices_in_order_and_echo_them(
    client: openai.OpenAI, tokenizer: Any
) -> None:
    prompts = ["Hello", "Good day"]
    asked: dict[str, Any] = {"model": "caller", "max_tokens": 4}
    alone = [client.completions.create(prompt=name, **asked).choices[0].text for name in prompts]
    together = client.completions.create(prompt=prompts, **asked, n=2, echo=True)
    tokens = [tokenizer.encode(name) for name in prompts]
    by_tokens = client.completions.create(prompt=tokens, **asked, n=2, echo=True)
    expected = [prompt + text for prompt, text in zip(prompts, alone, strict=True) for _ in "12"]
    assert [choice.text for choice in together.choices] == expected
    assert [choice.text for choice in by_tokens.choices] == expected
    assert together.usage
    assert together.usage.prompt_tokens == sum(map(len, tokens))
    assert together.usage.completion_tokens == 16


def test_a_completion_is_text_and_nothing_else(client: openai.OpenAI, tokenizer: Any) -> None:
    said = force_output(tokenizer, "!", THOUGHT, "?", CALL, OPENING, RIVER, CALLED)
    answer = client.completions.create(model="caller", prompt="Hi", max_tokens=7, extra_body=said)
    assert answer.choices[0].text == f"!{THOUGHT}?{CALL}{OPENING}{RIVER}{CALLED}"
    assert answer.choices[0].finish_reason == "length"


def test_log_probabilities_of_a_completion_fit_its_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="caller", prompt="Hi", max_tokens=4, logprobs=2)
    told = answer.choices[0].logprobs
    assert told
    assert told.tokens
    assert told.token_logprobs
    assert told.top_logprobs
    assert len(told.tokens) == len(told.token_logprobs) == 4
    for chosen, logprob, likeliest in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, strict=True
    ):
        assert likeliest[chosen] == logprob
        assert logprob <= 0


def test_tokens_no_model_has_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="caller", prompt=[1, 999_999])
    assert refused.value.param == "prompt"
    assert "999999" in refused.value.message


def test_text_and_tokens_are_each_others(node: RunningNode, tokenizer: Any) -> None:
    text = "Grüße 東京 🙂\n"
    tokens = node.ask("/tokenize", {"prompt": text}).json
    ids = tokenizer.encode(text)
    assert tokens == {"tokens": ids, "count": len(ids), "max_model_len": 8192}
    assert node.ask("/v1/detokenize", {"tokens": tokens["tokens"]}).json == {"prompt": text}
    nothing = node.ask("/tokenize", {"prompt": ""}).json
    assert nothing == {"tokens": [], "count": 0, "max_model_len": 8192}
    assert node.ask("/detokenize", {"tokens": [999_999]}).status == 400


# --- Anthropic: messages ----------------------------------------------------------------------

TOOL: Any = {"name": "look", "input_schema": SCHEMA}
TURNS: list[Any] = [{"role": "user", "content": "Hello"}]


def message(claude: anthropic.Anthropic, said: dict[str, Any], **fields: Any) -> Any:
    asked: dict[str, Any] = {
        "model": "caller",
        "messages": TURNS,
        "tools": [TOOL],
        "max_tokens": 12,
        **fields,
    }
    return claude.messages.create(**asked, extra_body=said)


def test_a_message_has_thinking_words_and_tool_use_as_blocks(
    claude: anthropic.Anthropic, a_call: dict[str, Any]
) -> None:
    answer = message(claude, a_call)
    thinking, text, use = answer.content
    assert (thinking.thinking, text.text) == ("!", "?")
    assert (use.type, use.name, use.input) == ("tool_use", "look", {"at": "the river"})
    assert answer.stop_reason == "tool_use"
    assert answer.usage.output_tokens == 8


def test_the_clients_own_gathering_of_a_stream_is_the_message(
    claude: anthropic.Anthropic, a_call: dict[str, Any]
) -> None:
    whole = message(claude, a_call)
    with claude.messages.stream(
        model="caller", messages=TURNS, tools=[TOOL], max_tokens=12, extra_body=a_call
    ) as stream:
        text = "".join(stream.text_stream)
        gathered = stream.get_final_message()
    assert text == "?"
    assert [block.type for block in gathered.content] == [block.type for block in whole.content]
    assert gathered.stop_reason == "tool_use"
    assert gathered.usage.output_tokens == whole.usage.output_tokens
    *_, use = gathered.content
    assert use.type == "tool_use"
    assert use.input == {"at": "the river"}


def test_a_loop_of_two_turns_really_calls_the_function_by_messages(
    claude: anthropic.Anthropic, a_call: dict[str, Any], an_end: dict[str, Any], tokenizer: Any
) -> None:
    first = message(claude, a_call)
    use = first.content[-1]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": look(**use.input)}
    turns: list[Any] = [
        *TURNS,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    counted = claude.messages.count_tokens(model="caller", messages=turns, tools=[TOOL])
    second = message(claude, an_end, messages=turns)
    assert second.content[0].text == "?"
    assert second.stop_reason == "end_turn"
    usage = second.usage
    assert usage.cache_read_input_tokens > 0
    assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens
    assert counted.input_tokens == len(_second_prompt(tokenizer))


def test_a_stop_sequence_is_named(claude: anthropic.Anthropic, tokenizer: Any) -> None:
    said = force_output(tokenizer, THOUGHT, "?", "!", IM_END)
    answer = message(claude, said, stop_sequences=["x", "!"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "!")
    assert answer.content[0].text == "?"
    streamed = [*message(claude, said, stop_sequences=["!"], stream=True)]
    (delta,) = [item.delta for item in streamed if item.type == "message_delta"]
    assert (delta.stop_reason, delta.stop_sequence) == ("stop_sequence", "!")


def test_a_billing_line_that_changes_does_not_cost_the_prefix(
    claude: anthropic.Anthropic, an_end: dict[str, Any]
) -> None:
    def asked(nonce: str) -> Any:
        billing = f"x-anthropic-billing-header: cc_version=2; cch={nonce};"
        system = [
            {"type": "text", "text": billing},
            {
                "type": "text",
                "text": "You are a careful and patient reader of long rivers.",
                "cache_control": {"type": "ephemeral"},
            },
        ]
        return message(claude, an_end, system=system).usage

    first, second = asked("00000"), asked("fffff")
    assert second.cache_read_input_tokens > first.cache_read_input_tokens
    assert second.cache_read_input_tokens > 20


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"tools": [], "tool_choice": {"type": "any"}}, anthropic.BadRequestError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"max_tokens": -1}, anthropic.BadRequestError),
    ],
)
def test_refusals_are_anthropics_own_errors(
    claude: anthropic.Anthropic,
    fields: dict[str, Any],
    kind: type[anthropic.APIStatusError],
) -> None:
    with pytest.raises(kind) as refused:
        message(claude, {}, **fields)
    body: Any = refused.value.body
    assert body["error"]["type"] == "invalid_request_error"


def _second_prompt(tokenizer: Any) -> list[int]:
    """What the model reads at the second turn of the loop."""
    called = {"function": {"name": "look", "arguments": {"at": "the river"}}}
    tokens: list[int] = tokenizer.apply_chat_template(
        [
            *TURNS,
            {"role": "assistant", "content": "?", "tool_calls": [called]},
            {"role": "tool", "content": look("the river")},
        ],
        tools=[{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}],
        add_generation_prompt=True,
    )
    return tokens
