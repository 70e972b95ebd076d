"""The dialect of `POST /v1/completions`: a body in, bytes out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mlx_worker.api.dialects.base import GenerationRequest, ResponseInfo, Usage
from mlx_worker.api.dialects.completions.request import parse
from mlx_worker.api.dialects.completions.response import CompletionWriter
from mlx_worker.api.dialects.model_terms import ModelTerms, RequestCapacity
from mlx_worker.config.schema import Defaults
from mlx_worker.errors import InvalidRequest, MissingField, UnsupportedField
from mlx_worker.supervisor.requests.generation import FinishInfo
from mlx_worker.supervisor.requests.output_buffer import OutputDelta, Scores
from mlx_worker.wire.output import TokenChoice, TokenLogprobs
from mlx_worker.wire.request import PromptScoring
from tests.call_counter import calls
from tests.sse import events_of

INFO = ResponseInfo("m", 1, "fp_1")
USAGE = Usage(prompt=10, cached=4, completion=7)


def asked(**fields: Any) -> GenerationRequest:
    return parse(json.dumps({"prompt": "Hello"} | fields).encode())


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hello", ["Hello"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompt_is_text_or_tokens_single_or_several(prompt: Any, prompts: list[Any]) -> None:
    call = asked(prompt=prompt)
    assert [chat.prompt for chat in call.chats] == prompts
    assert all(chat.messages == [] for chat in call.chats)
    assert call.echoed == []
    assert asked(prompt=prompt, echo=True).echoed == prompts


def test_choices_of_one_prompt_follow_each_other() -> None:
    call = asked(prompt=["a", "b"], n=2, seed=5)
    choices = call.split_choices()
    assert call.choice_count == 4
    assert [chat.prompt for chat in choices] == ["a", "a", "b", "b"]
    seeds = [chat.sampling.seed for chat in choices]
    assert seeds[0] == seeds[2] == 5
    assert seeds[1] == seeds[3] != 5


SCHEMA = {"json": {"type": "object", "properties": {str(i): {} for i in range(100)}}}


def test_choices_are_counted_before_anything_is_built() -> None:
    body = json.dumps({"prompt": ["a"] * 97, "n": 2, "structured_outputs": SCHEMA}).encode()

    def refuse() -> None:
        with pytest.raises(InvalidRequest, match="194 choices; model 'm' takes 96"):
            parse(body, lambda _: ModelTerms(capacity=RequestCapacity("m", 96)))

    made = calls(refuse)
    assert not made.keys() & {
        "sampling",
        "resolve_constraint",
        "resolve_seed",
        "check_free_form",
        "replace",
    }


def test_shared_parts_of_prompts_are_built_once() -> None:
    body = json.dumps({"prompt": ["a"] * 97, "structured_outputs": SCHEMA}).encode()
    made = calls(
        lambda: parse(body, lambda _: ModelTerms(capacity=RequestCapacity("m", 97))).packed()
    )
    assert made["resolve_sampling"] == made["resolve_constraint"] == made["pack_chat"] == 1


def test_max_tokens_is_the_requests_the_models_or_openais() -> None:
    body = b'{"prompt": "Hello"}'
    assert asked(max_tokens=3).chats[0].max_tokens == 3
    assert parse(body, lambda _: ModelTerms(Defaults(max_tokens=7))).chats[0].max_tokens == 7
    assert parse(body).chats[0].max_tokens == 16


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    ],
)
def test_unsupported_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert isinstance(error, UnsupportedField)
    assert error.param == param


@pytest.mark.parametrize("prompt", [["a", 1], [[1], 2], ["a", [1]], []])
def test_prompts_of_mixed_kinds_are_refused(prompt: Any) -> None:
    assert refused(prompt=prompt).param == "prompt"


def test_body_without_prompt_is_missing_field() -> None:
    with pytest.raises(MissingField, match="prompt"):
        parse(b"{}")


def told(text: str) -> TokenLogprobs:
    return TokenLogprobs(TokenChoice(text, -0.5), [TokenChoice(text, -0.5), TokenChoice("x", -2.0)])


def test_logprobs_are_lists_with_continued_offsets() -> None:
    writer = CompletionWriter(asked(logprobs=2, stream=True), INFO)
    stream = writer.delta(OutputDelta(["Hello"], [told("Hel"), told("lo")]), 0) + writer.delta(
        OutputDelta(["!"], [told("!")]), 0
    )
    first, second = [data["choices"][0]["logprobs"] for _, data in events_of(stream)]
    assert first == {
        "tokens": ["Hel", "lo"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"Hel": -0.5, "x": -2.0}, {"lo": -0.5, "x": -2.0}],
        "text_offset": [0, 3],
    }
    assert second["text_offset"] == [5]


def test_logprobs_offsets_count_characters() -> None:
    """Tokens inside a character begin with it; a special token that is not shown has no width."""
    halves = [TokenChoice("\ufffd", -0.5, part) for part in ("🙂".encode()[:2], "🙂".encode()[2:])]
    choices = [
        TokenChoice("a", -0.5),
        TokenChoice("<|x|>", -0.5, b""),
        *halves,
        TokenChoice("b", -0.5),
    ]
    writer = CompletionWriter(asked(logprobs=0, stream=True), INFO)
    stream = writer.delta(
        OutputDelta(["a🙂b"], [TokenLogprobs(choice, []) for choice in choices]), 0
    )
    (_, data), *_ = events_of(stream)
    assert data["choices"][0]["logprobs"]["text_offset"] == [0, 1, 1, 1, 2]


def test_logprobs_of_equal_texts_differ_by_bytes() -> None:
    likeliest = [TokenChoice("\ufffd", -1.0, b"\xf0"), TokenChoice("\ufffd", -2.0, b"\xf1\x9f")]
    writer = CompletionWriter(asked(logprobs=2, stream=True), INFO)
    stream = writer.delta(OutputDelta([], [TokenLogprobs(likeliest[0], likeliest)]), 0)
    (_, data), *_ = events_of(stream)
    (top,) = data["choices"][0]["logprobs"]["top_logprobs"]
    assert top == {"\ufffd": -1.0, "bytes:\\xf1\\x9f": -2.0}


def test_echo_precedes_every_choice_of_its_prompt() -> None:
    call = asked(prompt=["a", "b"], n=2, echo=True)
    writer = CompletionWriter(call, replace(INFO, echoes=["a", "b"]))
    said = [(OutputDelta([str(i)], []), FinishInfo("stop", 1)) for i in range(4)]
    whole = json.loads(writer.full_response(said, USAGE))
    assert [choice["text"] for choice in whole["choices"]] == ["a0", "a1", "b2", "b3"]
    opening = [data["choices"][0]["text"] for _, data in events_of(writer.start(USAGE))]
    assert opening == ["a", "a", "b", "b"]


def test_max_tokens_zero_is_accepted() -> None:
    assert asked(max_tokens=0).chats[0].max_tokens == 0
    assert refused(max_tokens=-1).param == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "scoring"),
    [
        ({"echo": True}, None),
        ({"logprobs": 1}, None),
        ({"echo": True, "logprobs": 1}, PromptScoring(1, None)),
        ({"echo": True, "logprobs": 0, "stream": True}, PromptScoring(0, None)),
        ({"prompt_logprobs": 0}, PromptScoring(None, 0)),
        ({"echo": True, "logprobs": 2, "prompt_logprobs": 1}, PromptScoring(2, 1)),
    ],
)
def test_prompt_is_scored_for_echoed_logprobs_or_prompt_logprobs(
    fields: dict[str, Any], scoring: PromptScoring | None
) -> None:
    assert asked(**fields).chats[0].prompt_scoring == scoring


@pytest.mark.parametrize("value", [-1, 21, "1"])
def test_prompt_logprobs_out_of_range_is_refused(value: Any) -> None:
    assert refused(prompt_logprobs=value).param == "prompt_logprobs"


def test_prompt_logprobs_with_stream_is_refused() -> None:
    assert "cannot be combined with stream: true" in refused(prompt_logprobs=1, stream=True).message


SCORES = Scores([b'"He","y"', b"null,-1.5", b'null,{"a":-0.5}', b"0,2"], b"")


def test_echo_scores_precede_answer_scores() -> None:
    call = asked(prompt="Hey", echo=True, logprobs=1)
    writer = CompletionWriter(call, replace(INFO, echoes=["Hey"]))
    piece = OutputDelta(["!"], [told("!")], scores=SCORES)
    (choice,) = json.loads(writer.full_response([(piece, FinishInfo("length", 1))], USAGE))[
        "choices"
    ]
    assert choice["text"] == "Hey!"
    assert choice["logprobs"] == {
        "tokens": ["He", "y", "!"],
        "token_logprobs": [None, -1.5, -0.5],
        "top_logprobs": [None, {"a": -0.5}, {"!": -0.5, "x": -2.0}],
        "text_offset": [0, 2, 3],
    }
    assert "prompt_logprobs" not in choice


def test_stream_echo_comes_once_with_its_scores() -> None:
    call = asked(prompt="Hey", echo=True, logprobs=1, stream=True)
    writer = CompletionWriter(call, replace(INFO, echoes=["Hey"]))
    stream = writer.start(USAGE) + writer.delta(OutputDelta([], [], scores=SCORES), 0)
    stream += writer.delta(OutputDelta(["!"], [told("!")]), 0)
    choices = [data["choices"][0] for _, data in events_of(stream)]
    assert [choice["text"] for choice in choices] == ["", "Hey", "!"]
    assert choices[0]["logprobs"] is None
    assert choices[1]["logprobs"]["token_logprobs"] == [None, -1.5]
    assert choices[2]["logprobs"]["text_offset"] == [3]


def test_prompt_logprobs_are_a_field_of_the_choice() -> None:
    writer = CompletionWriter(asked(prompt_logprobs=0), INFO)
    scores = Scores([b""] * 4, b'null,{"7":{"logprob":-1.5,"rank":2,"decoded_token":"y"}}')
    whole = writer.full_response(
        [(OutputDelta(["!"], [], scores=scores), FinishInfo("length", 1))], USAGE
    )
    (choice,) = json.loads(whole)["choices"]
    assert choice["logprobs"] is None
    assert choice["prompt_logprobs"] == [
        None,
        {"7": {"logprob": -1.5, "rank": 2, "decoded_token": "y"}},
    ]
