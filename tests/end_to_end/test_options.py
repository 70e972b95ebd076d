"""Fields of vLLM and of lm-eval, asked of a node that runs a real model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm import load

from tests.dialects import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Dialect
from tests.sse import events_of
from tests.synthetic_models import IM_END, WORDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.processes import RunningNode

DIALECTS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
TEXT = "the old fox saw a barn near the river"
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> tuple[Any, Any]:
    model, tokenizer, *_ = load(str(tiny))
    return model, tokenizer


def complete(node: RunningNode, **body: Any) -> Any:
    answer = node.ask("/v1/completions", {"prompt": TEXT, "temperature": 0} | body)
    assert answer.status == 200, answer.body
    return answer.json


def own(loaded: tuple[Any, Any], tokens: list[int]) -> list[float]:
    model, _ = loaded
    logprobs = nn.log_softmax(model(mx.array([tokens]))[0].astype(mx.float32))
    return [logprobs[i, token].item() for i, token in enumerate(tokens[1:])]


def test_an_echo_has_the_log_probabilities_of_the_prompt(
    node: RunningNode, loaded: tuple[Any, Any]
) -> None:
    tokens = loaded[1].encode(TEXT)
    (plain,) = complete(node, max_tokens=3, logprobs=1)["choices"]
    (choice,) = complete(node, max_tokens=3, logprobs=1, echo=True)["choices"]
    lists = choice["logprobs"]
    assert choice["text"] == TEXT + plain["text"]
    assert lists["token_logprobs"][0] is lists["top_logprobs"][0] is None
    scores = lists["token_logprobs"][1:]
    assert scores[: len(tokens) - 1] == pytest.approx(own(loaded, tokens), abs=1e-4)
    assert scores[len(tokens) - 1 :] == plain["logprobs"]["token_logprobs"]
    assert "".join(lists["tokens"]) == choice["text"]
    assert lists["text_offset"][len(tokens) :] == [
        len(TEXT) + at for at in plain["logprobs"]["text_offset"]
    ]


def test_a_streamed_echo_is_the_same(node: RunningNode) -> None:
    body = {"prompt": [TEXT, WORDS[0]], "max_tokens": 3, "logprobs": 2, "echo": True}
    whole = complete(node, **body)["choices"]
    answer = node.ask("/v1/completions", body | {"temperature": 0, "stream": True})
    texts, scores = ["", ""], ([], [])  # type: tuple[list[str], tuple[list[Any], list[Any]]]
    for _, data in events_of(answer.body)[:-1]:
        (choice,) = data["choices"]
        texts[choice["index"]] += choice["text"]
        scores[choice["index"]].extend((choice["logprobs"] or {}).get("token_logprobs", []))
    assert texts == [choice["text"] for choice in whole]
    for streamed, choice in zip(scores, whole, strict=True):
        expected = choice["logprobs"]["token_logprobs"]
        assert streamed[0] is None
        assert streamed[1:] == pytest.approx(expected[1:], abs=1e-5)


def test_prompts_of_tokens_in_one_body_are_scored_as_each_alone(
    node: RunningNode, loaded: tuple[Any, Any]
) -> None:
    tokenizer = loaded[1]
    prompts = [tokenizer.encode(" ".join(WORDS[:count])) for count in (1, 5, 40)]
    for _ in range(2):  # the second time they are resident
        choices = complete(node, prompt=prompts, max_tokens=1, logprobs=1, echo=True)["choices"]
        for tokens, choice in zip(prompts, choices, strict=True):
            told = choice["logprobs"]["token_logprobs"][1:-1]
            assert told == pytest.approx(own(loaded, tokens), abs=1e-4)


def test_a_prompt_can_be_scored_and_nothing_said(node: RunningNode) -> None:
    answer = complete(node, max_tokens=0, logprobs=0, echo=True)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (TEXT, "length")
    assert len(choice["logprobs"]["tokens"]) == answer["usage"]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == 0
    silent = complete(node, max_tokens=0)
    assert silent["choices"][0]["text"] == ""
    streamed = node.ask("/v1/completions", {"prompt": TEXT, "max_tokens": 0, "stream": True})
    assert events_of(streamed.body)[-2][1]["choices"][0]["finish_reason"] == "length"


def test_a_chats_prompt_is_scored_as_vllm_tells_it(
    node: RunningNode, loaded: tuple[Any, Any]
) -> None:
    body = CHAT.body(TEXT, max_tokens=2, prompt_logprobs=1)
    first, *entries = node.ask(CHAT.path, body).json["prompt_logprobs"]
    tokens = loaded[1].apply_chat_template(body["messages"], add_generation_prompt=True)
    told = [entry[str(token)] for entry, token in zip(entries, tokens[1:], strict=True)]
    assert first is None
    assert [item["logprob"] for item in told] == pytest.approx(own(loaded, tokens), abs=1e-4)
    assert all(set(item) == {"logprob", "rank", "decoded_token"} for item in told)


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_ends_are_ignored_or_put_off_in_every_dialect(
    node: RunningNode, loaded: tuple[Any, Any], dialect: Dialect
) -> None:
    (end,) = loaded[1].encode(IM_END, add_special_tokens=False)
    eager: dict[str, Any] = {"logit_bias": {str(end): 100}, dialect.limit: 20, "seed": 1}

    def length(**fields: Any) -> tuple[int, str]:
        answer = node.ask(dialect.path, dialect.body(TEXT, **eager, **fields))
        assert answer.status == 200, answer.body
        received = dialect.read_full(answer.json)
        assert received.usage is not None
        return received.usage.completion, received.finish

    assert length() == (1, "stop")
    assert length(ignore_eos=True) == (20, "length")
    assert length(min_tokens=7) == (8, "stop")
    assert length(ignore_eos=True, stop_token_ids=[end]) == (1, "stop")


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"guided_json": SCHEMA}, ('{"ok":true}', '{"ok":false}')),
        ({"guided_regex": "(yes|no)!"}, ("yes!", "no!")),
        ({"guided_choice": ["the fox", "a barn"]}, ("the fox", "a barn")),
        ({"guided_grammar": 'root ::= "yes" | "no"'}, ("yes", "no")),
        ({"grammar": 'start: "yes" | "no"'}, ("yes", "no")),
    ],
    ids=["guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar"],
)
def test_shapes_by_other_names_are_kept_in_every_dialect(
    node: RunningNode, dialect: Dialect, fields: dict[str, Any], answers: tuple[str, ...]
) -> None:
    answer = node.ask(dialect.path, dialect.body(TEXT, **{dialect.limit: 200}, **fields))
    assert answer.status == 200, answer.body
    text = dialect.read_full(answer.json).text
    assert text in answers or "".join(text.split()) in answers


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mirostat": 2}, "mirostat"),
        ({"format": "json"}, "format"),
        ({"ignore_eos": True, "guided_regex": "a"}, "ignore_eos"),
        ({"min_tokens": 2, "guided_regex": "a"}, "min_tokens"),
        ({"min_tokens": 21}, "min_tokens"),
        ({"stop_token_ids": [99_999_999]}, "stop_token_ids"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_grammar": 'root ::= "a" nothing'}, "guided_grammar"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_kept_is_refused_by_name_in_every_dialect(
    node: RunningNode, dialect: Dialect, fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        body = dialect.body(TEXT, **{dialect.limit: 20}, stream=stream, **fields)
        answer = node.ask(dialect.path, body)
        assert answer.status == 400
        assert dialect.read_error(answer.json).startswith(param)
        if dialect is not MESSAGES:
            assert json.loads(answer.body)["error"]["param"] == param
