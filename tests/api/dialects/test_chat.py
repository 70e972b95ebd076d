"""The dialect of `POST /v1/chat/completions`: a body in, bytes out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from mlx_worker.api.dialects.chat.request import parse
from mlx_worker.api.dialects.model_terms import ModelTerms
from mlx_worker.config.schema import Defaults
from mlx_worker.errors import InvalidRequest, MissingField, UnsupportedField
from mlx_worker.wire.framing import encode
from mlx_worker.wire.messages import Generate
from mlx_worker.wire.request import Sampling

if TYPE_CHECKING:
    from mlx_worker.api.dialects.base import GenerationRequest

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}


def asked(**fields: Any) -> GenerationRequest:
    return parse(json.dumps({"messages": HELLO} | fields).encode())


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    return caught.value


def turns(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return asked(messages=messages).chats[0].messages


# --- in: what is understood ---------------------------------------------------------------


def test_parse_messages_alone_are_accepted() -> None:
    call = asked()
    assert (call.model, call.stream, call.include_usage) == (None, False, False)
    assert call.chats[0].messages == HELLO
    assert call.chats[0].max_tokens is None
    assert call.chats[0].stop == []
    assert call.chats[0].template_kwargs == {}
    assert call.chats[0].sampling == Sampling(seed=call.chats[0].sampling.seed)


def test_parse_samplers_are_all_passed_on() -> None:
    call = asked(
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=-0.5,
        frequency_penalty=0.25,
        logit_bias={"17": -100, "3": 2.5},
        seed=42,
    )
    assert call.chats[0].sampling == Sampling(
        seed=42,
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=-0.5,
        frequency_penalty=0.25,
        logit_bias={17: -100.0, 3: 2.5},
    )


def test_parse_stream_options_set_usage_and_model() -> None:
    call = asked(model="qwen", stream=True, stream_options={"include_usage": True}, user="me")
    assert (call.model, call.stream, call.include_usage) == ("qwen", True, True)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8}, 8),
        ({"max_tokens": 7, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 7, "max_completion_tokens": None}, 7),
    ],
)
def test_max_completion_tokens_goes_before_max_tokens(fields: dict[str, Any], limit: int) -> None:
    assert asked(**fields).chats[0].max_tokens == limit


def test_reasoning_effort_sets_template_arguments() -> None:
    assert asked(reasoning_effort="low").chats[0].template_kwargs == {"reasoning_effort": "low"}
    told = {"reasoning_effort": "high", "enable_thinking": True}
    for effort in ("low", "none"):
        chat = asked(reasoning_effort=effort, chat_template_kwargs=told).chats[0]
        assert chat.template_kwargs == told
    assert asked(reasoning_effort="none").chats[0].template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, {"enable_thinking": True}),
        ({"thinking": {"type": "auto"}}, {}),
        ({"thinking": False}, {"enable_thinking": False}),
        ({"thinking": None, "reasoning": None}, {}),
        ({"reasoning": {}}, {}),
        ({"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ({"reasoning": {"effort": "none"}}, {"enable_thinking": False}),
        ({"reasoning": {"enabled": False, "max_tokens": 9}}, {"enable_thinking": False}),
        ({"reasoning": {"effort": "high"}, "reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (
            {"thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
            {"enable_thinking": False},
        ),
    ],
    ids=str,
)
def test_other_servers_reasoning_fields_set_template_arguments(
    fields: dict[str, Any], told: dict[str, Any]
) -> None:
    assert asked(**fields).chats[0].template_kwargs == told


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning": {"exclude": True}}, "reasoning.exclude"),
        ({"thinking": {"type": "deeply"}}, "thinking.type"),
        ({"thinking": "yes"}, "thinking"),
    ],
)
def test_unsupported_reasoning_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_earlier_reasoning_content_goes_to_the_template() -> None:
    turn = {"role": "assistant", "content": "So.", "reasoning_content": "hm"}
    assert turns(HELLO[0], turn)[1] == turn


@pytest.mark.parametrize(
    ("stop", "words"), [("END", ["END"]), (["a", "b"], ["a", "b"]), ([], []), (None, [])]
)
def test_stop_accepts_a_string_or_a_list(stop: Any, words: list[str]) -> None:
    assert asked(stop=stop).chats[0].stop == words


def test_chat_template_kwargs_go_to_the_template() -> None:
    kwargs = {"enable_thinking": False, "depth": {"a": [1, None]}}
    assert asked(chat_template_kwargs=kwargs).chats[0].template_kwargs == kwargs


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_seed_of_the_request_is_kept(seed: int) -> None:
    first, again = asked(seed=seed).chats[0].sampling.seed, asked(seed=seed).chats[0].sampling.seed
    assert first == again
    assert 0 <= first < 2**64


def test_seeds_that_differ_stay_different() -> None:
    seeds = [0, 1, -1, 2**63 - 1, -(2**63)]
    assert len({asked(seed=seed).chats[0].sampling.seed for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("fields", [{}, {"seed": None}], ids=["absent", "null"])
def test_seed_is_generated_if_absent(fields: dict[str, Any]) -> None:
    assert len({asked(**fields).chats[0].sampling.seed for _ in range(8)}) == 8


@pytest.mark.parametrize(
    "field",
    [
        *("model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k"),
        *("min_p", "n", "stop", "presence_penalty", "frequency_penalty"),
        *("repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "stream"),
        *("stream_options", "tools", "tool_choice", "parallel_tool_calls", "functions"),
        *("response_format", "user", "chat_template_kwargs"),
    ],
)
def test_null_fields_are_as_absent(field: str) -> None:
    assert asked(**{"seed": 1, field: None}) == asked(seed=1)


def test_unknown_fields_are_tolerated() -> None:
    call = asked(cache_prompt=True, metadata={"a": [1]}, store=False)
    assert call.chats[0].messages == HELLO


# --- in: turns ----------------------------------------------------------------------------


def test_every_role_is_a_message_and_developer_is_system() -> None:
    roles = ["system", "developer", "user", "assistant", "tool"]
    said = turns(*({"role": role, "content": role} for role in roles))
    assert said == [
        {"role": "system", "content": "system"},
        {"role": "system", "content": "developer"},
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": "assistant"},
        {"role": "tool", "content": "tool"},
    ]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b\n"}]
    assert turns({"role": "user", "content": parts}) == [{"role": "user", "content": "a b\n"}]
    assert turns({"role": "user", "content": []}) == [{"role": "user", "content": ""}]


def test_assistant_with_tool_calls_alone_has_no_content() -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = {"role": "tool", "content": "seen", "tool_call_id": "t1", "name": "look"}
    assert turns(message, answer) == [message | {"content": ""}, answer]


def test_assistant_content_may_be_absent() -> None:
    assert turns({"role": "assistant"}) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_null_content_is_empty_text(role: str) -> None:
    """Templates join content to other text: they cannot be given null."""
    assert turns({"role": role, "content": None}) == [{"role": role, "content": ""}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "look"}}),
        ("function_call", {"name": "look"}),
        ("modalities", ["text", "audio"]),
    ],
)
def test_unsupported_fields_that_change_the_answer_are_refused(field: str, value: object) -> None:
    assert refused(**{field: value}).param == field


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_part_that_is_no_text_is_refused_by_name(kind: str) -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": kind, kind: {"url": "x"}}]
    error = refused(messages=[{"role": "user", "content": parts}])
    assert isinstance(error, UnsupportedField)
    assert error.param == "messages[0].content[1]"
    assert f"'{kind}'" in error.message


# --- in: tools ----------------------------------------------------------------------------


def test_tools_are_offered_word_for_word() -> None:
    """A template shows them to the model: what this node does not know is the model's to know."""
    tool = {
        "function": {"parameters": {"x": {"b": 1, "a": None}}, "name": "look", "new": [1.5]},
        "type": "function",
        "cache_control": None,
    }
    offered = asked(tools=[tool, TOOL]).chats[0].tools
    assert json.dumps(offered) == json.dumps([tool, TOOL])


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": None}, {"tool_choice": "auto"}])
def test_no_tools_are_offered_if_none_are_given(fields: dict[str, Any]) -> None:
    assert asked(**fields).chats[0].tools == []


def test_tool_choice_none_offers_no_tools() -> None:
    assert asked(tools=[TOOL], tool_choice="none").chats[0].tools == []


@pytest.mark.parametrize(
    ("fields", "one"),
    [({}, False), ({"parallel_tool_calls": True}, False), ({"parallel_tool_calls": False}, True)],
)
def test_parallel_tool_calls_false_allows_one_call(fields: dict[str, Any], one: bool) -> None:
    assert asked(tools=[TOOL], **fields).chats[0].one_call is one


@pytest.mark.parametrize(
    ("tool", "param", "said"),
    [
        pytest.param({"type": "function"}, "tools[1].function", "is required", id="no function"),
        pytest.param({"function": {"name": "a"}}, "tools[1].type", "is required", id="no type"),
        pytest.param(
            {"type": "custom", "function": {"name": "a"}},
            "tools[1].type",
            "'custom' is not one of 'function'",
            id="another kind",
        ),
        pytest.param(
            {"type": "function", "function": {}},
            "tools[1].function.name",
            "is required",
            id="no name",
        ),
        pytest.param(
            {"type": "function", "function": {"name": ""}},
            "tools[1].function.name",
            "length >= 1",
            id="an empty name",
        ),
        pytest.param(
            {"type": "function", "function": {"name": "a", "parameters": []}},
            "tools[1].function.parameters",
            "object",
            id="parameters that are no object",
        ),
    ],
)
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_malformed_tool_is_named_by_its_path(
    tool: dict[str, Any], param: str, said: str, choice: str
) -> None:
    error = refused(tools=[TOOL, tool], tool_choice=choice)
    assert error.param == param
    assert said in error.message


@pytest.mark.parametrize("inner", [10**400, [[]]], ids=["over a double", "a deep nest"])
def test_tools_that_cannot_be_encoded_are_refused(inner: Any) -> None:
    for _ in range(70 if inner == [[]] else 0):
        inner = [inner]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"x": inner}}}
    assert refused(tools=[tool]).param == "tools"


# --- in: choices --------------------------------------------------------------------------


def test_split_choices_of_one_choice_is_the_chat_itself() -> None:
    call = asked(seed=5)
    assert call.n == 1
    assert call.split_choices() == call.chats


def test_split_choices_differ_only_in_derived_seeds() -> None:
    first, *others = asked(seed=5, n=4, temperature=0.5).split_choices()
    assert first.sampling.seed == 5
    assert len({chat.sampling.seed for chat in (first, *others)}) == 4
    assert all(0 <= chat.sampling.seed < 2**64 for chat in others)
    for other in others:
        alike = replace(other, sampling=replace(other.sampling, seed=5))
        assert alike == first
    assert asked(seed=5, n=4, temperature=0.5).split_choices() == [first, *others]
    assert asked(seed=6, n=4, temperature=0.5).split_choices()[1] not in others


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_seed_of_any_size_is_reported_unchanged(seed: int) -> None:
    assert asked(seed=seed).seed == seed


def test_generated_seed_sent_back_gives_the_same_request() -> None:
    made = asked(temperature=1)
    assert asked(temperature=1, seed=made.seed).chats == made.chats
    assert 0 <= made.seed < 2**53  # what every reader of JSON keeps


@pytest.mark.parametrize(
    "content",
    ["def f():\n", [{"type": "text", "text": "def f"}, {"type": "text", "text": "():\n"}]],
    ids=["text", "parts"],
)
def test_prediction_is_passed_on_as_one_text(content: Any) -> None:
    (chat,) = asked(prediction={"type": "content", "content": content}).chats
    assert chat.prediction == "def f():\n"


@pytest.mark.parametrize(
    "prediction",
    [
        {"type": "content"},
        {"type": "text", "content": "a"},
        {"type": "content", "content": [{"type": "image_url", "image_url": {"url": "a"}}]},
    ],
)
def test_prediction_that_is_no_text_is_refused_by_name(prediction: dict[str, Any]) -> None:
    assert (refused(prediction=prediction).param or "").startswith("prediction")


# --- in: what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "look"}]),
        ("audio", {"voice": "a"}),
        ("moderation", {"model": "m"}),
        ("response_format", {"type": "structural_tag"}),
        ("tool_choice", "validated"),
    ],
)
def test_unsupported_fields_are_refused_by_name(field: str, value: Any) -> None:
    error = refused(**{field: value})
    assert isinstance(error, UnsupportedField)
    assert (error.status, error.param) == (400, field)
    assert field in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"logprobs": False},
        {"logprobs": False, "top_logprobs": 0},
        {"tools": []},
        {"tools": [TOOL], "tool_choice": "none"},
        {"functions": []},
        {"response_format": {"type": "text"}},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"parallel_tool_calls": True},
    ],
    ids=str,
)
def test_neutral_values_of_unsupported_fields_are_accepted(fields: dict[str, Any]) -> None:
    assert asked(**fields).chats[0].messages == HELLO


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("temperature", 2.1, "<= 2"),
        ("temperature", -0.1, ">= 0"),
        ("temperature", "hot", "float"),
        ("top_p", 1.5, "<= 1"),
        ("top_p", -0.1, ">= 0"),
        ("top_k", -2, ">= -1"),
        ("top_k", 1.5, "int"),
        ("min_p", 1.1, "<= 1"),
        ("n", 0, ">= 1"),
        ("n", 129, "<= 128"),
        ("max_tokens", 0, ">= 1"),
        ("max_tokens", "many", "int"),
        ("max_completion_tokens", -1, ">= 1"),
        ("presence_penalty", 2.5, "<= 2"),
        ("frequency_penalty", -2.5, ">= -2"),
        ("repetition_penalty", -0.1, ">= 0"),
        ("repetition_penalty", 11, "<= 10"),
        ("top_logprobs", 21, "<= 20"),
        ("seed", 2**63, "<= 9223372036854775807"),
        ("seed", 1.5, "int"),
        ("stop", "", "length >= 1"),
        ("stop", 3, "str"),
        ("stream", "yes", "bool"),
        ("stream_options", 1, "object"),
        ("model", 3, "str"),
        ("user", 3, "str"),
        ("messages", "Hello", "array"),
        ("tools", "hammer", "array"),
        ("logit_bias", 3, "object"),
        ("chat_template_kwargs", 3, "object"),
    ],
)
def test_wrong_value_is_named_with_its_limit(field: str, value: Any, limit: str) -> None:
    error = refused(**{field: value})
    assert (error.status, error.param) == (400, field)
    assert field in error.message
    assert limit in error.message
    assert repr(value) in error.message


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"stop": ["a", ""]}, "stop[1]", "length >= 1"),
        ({"stop": ["x" * 1000] * 17}, "stop", "17000 bytes; the limit is 16384"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "bool"),
        ({"response_format": {}}, "response_format.type", "is required"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": [3]}, "messages[0]", "object"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "is required"),
        ({"messages": [{"role": "bot", "content": "a"}]}, "messages[0].role", "'bot'"),
        ({"messages": [*HELLO, {"role": "user", "content": 3}]}, "messages[1].content", "3"),
        (
            {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
            "messages[0].content[0].type",
            "is required",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "messages[0].content[0].text",
            "str",
        ),
    ],
)
def test_wrong_inner_value_is_named_by_its_path(
    fields: dict[str, Any], param: str, said: str
) -> None:
    error = refused(**fields)
    assert error.param == param
    assert said in error.message


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        pytest.param({"17": 101}, "<= 100", id="too much"),
        pytest.param({"17": -101}, ">= -100", id="too little"),
        pytest.param({"the": 1}, "int", id="a word for a token id"),
        pytest.param({"17": "more"}, "float", id="a word for a number"),
        pytest.param({str(2**64): 1}, "logit_bias", id="an id that no model has"),
    ],
)
def test_wrong_logit_bias_is_named(bias: dict[str, Any], said: str) -> None:
    error = refused(logit_bias=bias)
    assert (error.param or "").startswith("logit_bias")
    assert said in error.message


def test_text_part_without_text_is_refused() -> None:
    error = refused(messages=[{"role": "user", "content": [{"type": "text"}]}])
    assert (error.param or "").startswith("messages[0].content[0]")
    assert "'text' are not understood" not in error.message


def test_body_without_messages_is_missing_field() -> None:
    with pytest.raises(MissingField) as caught:
        parse(b'{"model": "a"}')
    assert (caught.value.status, caught.value.param) == (422, "messages")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"hello", id="a word"),
        pytest.param(
            b'{"messages": [{"role": "user", "content": "a"}]} x', id="more after the end"
        ),
        pytest.param(b'{"messages": [{"role": "user", "content": "\xff"}]}', id="not UTF-8"),
        pytest.param(b'{"messages": [{"role": "user", "content": "\\ud800"}]}', id="half a pair"),
        pytest.param(b'{"messages": [{"role": "user", "content": "a"}], "x": NaN}', id="NaN"),
    ],
)
def test_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not JSON") as caught:
        parse(body)
    assert caught.value.status == 400


def test_body_of_another_type_names_the_expected_type() -> None:
    with pytest.raises(InvalidRequest, match="body: expected `object`, got `array`"):
        parse(b"[]")


def test_body_nested_too_deeply_is_refused() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(InvalidRequest, match="too deeply"):
        parse(b'{"messages": [{"role": "user", "content": "a"}], "x": ' + deep + b"}")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(2**64, id="over 64 bits"),
        pytest.param(-(2**63) - 1, id="under 64 bits"),
        pytest.param(10**30, id="thirty digits"),
    ],
)
def test_number_that_cannot_be_encoded_is_refused(number: int) -> None:
    """JSON has no largest integer, the pipe has: what was accepted must be able to go on."""
    try:
        call = asked(chat_template_kwargs={"budget": number})
    except InvalidRequest:
        return
    assert encode(Generate(1, call.chats[0]))


# --- a model's defaults ---------------------------------------------------------------------


def test_model_defaults_apply_to_absent_fields() -> None:
    defaults = Defaults(temperature=0.7, top_p=0.9, top_k=40, max_tokens=50)
    body = json.dumps({"model": "m", "messages": HELLO, "top_k": 0, "max_tokens": 5}).encode()
    asked_for: list[str | None] = []

    def terms_of(model: str | None) -> ModelTerms:
        asked_for.append(model)
        return ModelTerms(defaults)

    chat = parse(body, terms_of).chats[0]
    assert asked_for == ["m"]
    assert (chat.sampling.temperature, chat.sampling.top_p) == (0.7, 0.9)
    assert (chat.sampling.top_k, chat.max_tokens) == (0, 5)


def test_no_defaults_is_greedy_without_a_limit() -> None:
    chat = parse(json.dumps({"messages": HELLO}).encode()).chats[0]
    assert (chat.sampling.temperature, chat.sampling.top_p, chat.max_tokens) == (0.0, 1.0, None)
