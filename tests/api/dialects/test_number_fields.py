"""Numbers of a body, in every dialect: what is off, what is whole, what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.completions import request as completions
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.native.tokenize import parse_detokenize_body
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.config.load import parse_config
from mlx_worker.config.schema import Defaults
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_worker.api.dialects.base import GenerationRequest

HELLO = [{"role": "user", "content": "Hello"}]
DIALECTS: dict[str, tuple[Callable[..., GenerationRequest], dict[str, Any], str]] = {
    "chat": (chat.parse, {"messages": HELLO}, "max_tokens"),
    "completions": (completions.parse, {"prompt": "Hello"}, "max_tokens"),
    "responses": (responses.parse, {"input": "Hello"}, "max_output_tokens"),
    "messages": (messages.parse, {"messages": HELLO}, "max_tokens"),
}
OFF = [("top_p", 0), ("top_p", 0.0), ("top_k", 0), ("top_k", -1), ("min_p", 0)]
OFF += [("repetition_penalty", 0), ("repetition_penalty", 0.0)]

in_every_dialect = pytest.mark.parametrize("name", DIALECTS)


def asked(name: str, **fields: Any) -> GenerationRequest:
    parse, body, _ = DIALECTS[name]
    return parse(json.dumps(body | fields).encode())


def refusal(name: str, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(name, **fields)
    return caught.value


@in_every_dialect
@pytest.mark.parametrize(("field", "value"), OFF)
def test_neutral_samplers_are_accepted(name: str, field: str, value: float) -> None:
    assert getattr(asked(name, **{field: value}).chats[0].sampling, field) == value


@in_every_dialect
@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("top_p", -0.1, ">= 0"),
        ("top_p", 1.1, "<= 1"),
        ("top_k", -2, ">= -1"),
        ("min_p", -0.1, ">= 0"),
        ("repetition_penalty", -0.1, ">= 0"),
        ("repetition_penalty", 10.5, "<= 10"),
    ],
)
def test_samplers_out_of_range_are_refused_by_name(
    name: str, field: str, value: float, limit: str
) -> None:
    error = refusal(name, **{field: value})
    assert (error.status, error.param) == (400, field)
    assert limit in error.message
    assert repr(value) in error.message


def test_model_defaults_may_be_neutral(tmp_path: Path) -> None:
    text = '[[models]]\nid = "m"\npath = "p"\n[models.defaults]\n'
    text += "top_p = 0.0\ntop_k = -1\nmin_p = 0\nrepetition_penalty = 0\n"
    (model,) = parse_config(text, source="it", folder=tmp_path).models
    assert model.defaults == Defaults(top_p=0, top_k=-1, min_p=0, repetition_penalty=0)


@in_every_dialect
@pytest.mark.parametrize("value", [4.0, 4e2])
def test_whole_numbers_as_floats_are_accepted(name: str, value: float) -> None:
    limit = DIALECTS[name][2]
    call = asked(name, **{limit: value}, top_k=value, seed=value, temperature=1.0)
    request = call.chats[0]
    assert (request.max_tokens, request.sampling.top_k, call.seed) == (value, value, value)
    assert {type(number) for number in (request.max_tokens, request.sampling.top_k, call.seed)} == {
        int
    }
    assert isinstance(request.sampling.temperature, float)


def test_whole_floats_in_every_dialects_own_fields_are_accepted() -> None:
    call = asked("chat", n=2.0, logprobs=True, top_logprobs=3.0, max_completion_tokens=5.0)
    assert (call.n, call.chats[0].logprobs, call.chats[0].max_tokens) == (2, 3, 5)
    call = asked("completions", n=2.0, best_of=2.0, logprobs=1.0)
    assert (call.n, call.chats[0].logprobs) == (2, 1)
    call = asked("completions", prompt=[[5.0, 6], [7.0]])
    assert [chat.prompt for chat in call.chats] == [[5, 6], [7]]
    assert parse_detokenize_body(b'{"tokens": [5.0, 6]}') == (None, [5, 6])


def test_free_form_values_keep_their_floats() -> None:
    parameters = {"type": "object", "properties": {"at": {"type": "number", "default": 1.0}}}
    tool = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    call = asked(
        "chat",
        max_tokens=4.0,
        tools=[tool],
        chat_template_kwargs={"depth": 2.0},
        logit_bias={"5": 1.0},
    )
    told = json.dumps([call.chats[0].tools, call.chats[0].template_kwargs])
    assert told == json.dumps([[tool], {"depth": 2.0}])
    assert call.chats[0].sampling.logit_bias == {5: 1.0}


@in_every_dialect
@pytest.mark.parametrize("value", [4.5, "4", True])
def test_other_floats_are_no_whole_numbers(name: str, value: Any) -> None:
    limit = DIALECTS[name][2]
    error = refusal(name, **{limit: value})
    assert error.param == limit
    assert f"(here {value!r})" in error.message


@in_every_dialect
def test_nested_value_in_place_of_a_number_is_named(name: str) -> None:
    parse, body, limit = DIALECTS[name]
    deep = json.dumps(body)[:-1] + f', "{limit}": {"[" * 5000}{"]" * 5000}}}'
    with pytest.raises(InvalidRequest, match=f"^{limit}: "):
        parse(deep.encode())


@in_every_dialect
def test_whole_floats_have_the_limits_of_integers(name: str) -> None:
    limit = DIALECTS[name][2]
    least = 0 if name == "completions" else 1
    assert f">= {least}" in refusal(name, **{limit: -1.0}).message
    assert "9223372036854775807" in refusal(name, seed=1e20).message
    assert asked(name, **{limit: 1e30}).chats[0].max_tokens == (1 << 63) - 1
