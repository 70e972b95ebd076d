"""Scores of a prompt's own tokens: mlx_lm's own numbers, in any company, from any chunk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.bench.synthetic.tokenizer import IM_START
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.output.prompt_scores import max_scored_tokens
from mlx_worker.engine.prompt import build_prompt
from mlx_worker.errors import ContextLengthExceeded, InvalidRequest
from mlx_worker.wire.completion_logprobs import LOGPROB_LISTS
from mlx_worker.wire.messages import Started
from mlx_worker.wire.output import Done, PromptScores, StepOutput
from mlx_worker.wire.request import ChatRequest, PromptScoring, Sampling
from tests.rounds import rounds
from tests.structured_harness import HELLO, EngineHarness
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "the old fox saw a small barn near the river. Grüße 🙂 to all of them"
LONG = " ".join(WORDS * 8)


@pytest.fixture(scope="module")
def bench(tiny: Path) -> EngineHarness:
    return EngineHarness(tiny)


def asked(prompt: str | list[int] | None = TEXT, **more: Any) -> ChatRequest:
    scoring = more.pop("scoring", PromptScoring(2, 1))
    return ChatRequest(
        messages=HELLO if prompt is None else [],
        prompt=prompt,
        sampling=Sampling(seed=1),
        prompt_scoring=scoring,
        **({"max_tokens": 0} | more),
    )


class Told:
    """What an engine said about one request."""

    def __init__(self, said: list[Any], id_: int) -> None:
        mine = [message for message in said if getattr(message, "id", None) == id_]
        stretches = [message for message in mine if isinstance(message, PromptScores)]
        assert [score.is_last for score in stretches] == [False] * (len(stretches) - 1) + [True]
        self.stretches = len(stretches)
        self.done = next(message for message in mine if isinstance(message, Done))
        self.listed = joined([score.listed for score in stretches])
        columns = [
            joined(list(parts)) for parts in zip(*(one.echoed for one in stretches), strict=True)
        ]
        self.lists = dict(zip(LOGPROB_LISTS, columns, strict=True))
        steps = [message for message in said if isinstance(message, StepOutput)]
        self.tokens = [
            t for step in steps for row in step.rows if row.id == id_ for t in row.tokens
        ]

    @property
    def logprobs(self) -> list[float]:
        first, *others = self.lists["token_logprobs"]
        assert first is None
        return list(others)


def joined(stretches: list[bytes]) -> list[Any]:
    return list(json.loads(b"[" + b",".join(filter(None, stretches)) + b"]"))


def engine_of(bench: EngineHarness, **more: Any) -> Engine:
    settings = {"context_length": 4096, "max_concurrency": 8} | more
    return Engine(bench.model, bench.tokenizer, **settings)


def play(engine: Engine, bench: EngineHarness, *requests: ChatRequest, **more: Any) -> list[Any]:
    said: list[Any] = [
        engine.admit(id_, request, build_prompt(bench.tokenizer, request), **more)
        for id_, request in enumerate(requests)
    ]
    while engine.active:
        said += engine.step()
    return said


def alone(bench: EngineHarness, request: ChatRequest) -> Told:
    return Told(play(engine_of(bench), bench, request), 0)


def own(bench: EngineHarness, tokens: list[int], begin: int = 1) -> list[float]:
    """The numbers of mlx_lm's `evaluate`: a prefix into a cache, then the rest in one step."""
    cache = make_prompt_cache(bench.model)
    logits = bench.model(mx.array([tokens[:begin]]), cache=cache)[:, -1, :]
    first = nn.log_softmax(logits.astype(mx.float32))[0, tokens[begin]]
    if not tokens[begin + 1 :]:
        return [first.item()]
    rest = bench.model(mx.array([tokens[begin:-1]]), cache=cache)
    logprobs = nn.log_softmax(rest.astype(mx.float32))[0]
    return [first.item(), *(logprobs[i, t].item() for i, t in enumerate(tokens[begin + 1 :]))]


def near(told: list[float], expected: list[float]) -> bool:
    return bool(told == pytest.approx(expected, abs=1e-4))


def tokens_of(bench: EngineHarness, request: ChatRequest) -> list[int]:
    return build_prompt(bench.tokenizer, request).tokens


@pytest.mark.parametrize("begin", [1, 5, 20])
def test_the_scores_are_mlx_lms_own(bench: EngineHarness, begin: int) -> None:
    told = alone(bench, asked())
    tokens = tokens_of(bench, asked())
    assert near(told.logprobs[begin - 1 :], own(bench, tokens, begin))


def test_a_chunk_a_token_or_all_at_once_gives_the_same_scores(bench: EngineHarness) -> None:
    request = asked(" ".join(WORDS * rounds(2, 8, 8)))
    tokens = tokens_of(bench, request)
    engine = engine_of(bench, prefill_pause=1e-9)  # chunks as short as there are, once measured
    others = asked("one by one", scoring=None, max_tokens=rounds(100, 400, 400))
    told = Told(play(engine, bench, request, others), 0)
    assert told.stretches > 10
    assert near(told.logprobs, own(bench, tokens))


def test_scores_in_a_batch_are_those_alone(bench: EngineHarness) -> None:
    requests = [asked(" ".join(WORDS[:count])) for count in (2, 3, 7, 30, 90)]
    talking = asked("the old", scoring=None, max_tokens=20)
    said = play(engine_of(bench), bench, talking, *requests)
    for id_, request in enumerate(requests, 1):
        assert near(Told(said, id_).logprobs, own(bench, tokens_of(bench, request)))


@pytest.mark.full
def test_what_is_resident_is_read_again_where_it_is_scored(bench: EngineHarness) -> None:
    engine = engine_of(bench)
    first = Told(play(engine, bench, asked(LONG)), 0)
    said = play(engine, bench, asked(LONG))
    assert isinstance(said[0], Started)
    assert said[0].cached_tokens == 0
    assert near(Told(said, 0).logprobs, first.logprobs)


@pytest.mark.full
def test_a_prompt_that_shares_its_beginning_does_not_wait_and_is_scored_whole(
    bench: EngineHarness,
) -> None:
    requests = [asked(f"{LONG} {word}") for word in WORDS[:3]]
    said = play(engine_of(bench), bench, *requests)
    for id_, request in enumerate(requests):
        assert near(Told(said, id_).logprobs, own(bench, tokens_of(bench, request)))


def test_tokens_texts_and_offsets_add_up_to_the_prompt(bench: EngineHarness) -> None:
    for prompt in (TEXT, bench.tokenizer.encode(TEXT)):
        told = alone(bench, asked(prompt))
        offsets = told.lists["text_offset"]
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
        for token, at in zip(told.lists["tokens"], offsets, strict=True):
            assert "\ufffd" in token or TEXT.startswith(token, at)
        assert len({len(column) for column in told.lists.values()}) == 1


def test_a_special_token_of_the_prompt_has_its_place_in_the_text(bench: EngineHarness) -> None:
    told = alone(bench, asked(f"the{IM_START} old"))
    assert told.lists["tokens"] == ["the", IM_START, " old"]
    assert told.lists["text_offset"] == [0, 3, 3 + len(IM_START)]


def test_alternatives_are_the_likeliest_and_as_many_as_were_asked_for(bench: EngineHarness) -> None:
    told = alone(bench, asked(scoring=PromptScoring(5, 3)))
    tokens = tokens_of(bench, asked())
    logits = bench.model(mx.array([tokens]))[0].astype(mx.float32)
    best: list[int] = mx.argmax(logits, axis=-1).tolist()  # type: ignore[assignment]
    assert told.lists["top_logprobs"][0] is None
    assert told.listed[0] is None
    for place, token in enumerate(tokens[1:], 1):
        top = told.lists["top_logprobs"][place]
        assert list(top.values()) == sorted(top.values(), reverse=True)
        assert len(top) == 5
        entry = told.listed[place]
        likeliest = entry[str(best[place - 1])]
        assert likeliest["rank"] == 1
        assert likeliest["logprob"] == next(iter(top.values()))
        assert len(entry) == 3 + (entry[str(token)]["rank"] > 3)
        ranks = sorted(score["rank"] for score in entry.values())
        assert ranks[:3] == [1, 2, 3]
        logprob = told.logprobs[place - 1]
        assert entry[str(token)]["logprob"] == logprob
        as_likely = mx.sum(logits[place - 1] >= logits[place - 1, token]).item()
        assert entry[str(token)]["rank"] == as_likely


def test_a_chat_is_scored_as_its_template_writes_it(bench: EngineHarness) -> None:
    request = asked(None, scoring=PromptScoring(None, 0), max_tokens=3)
    said = play(engine_of(bench), bench, request)
    stretches = [message for message in said if isinstance(message, PromptScores)]
    first, *entries = joined([score.listed for score in stretches])
    tokens = tokens_of(bench, request)
    assert first is None
    assert [int(key) for entry in entries for key in entry] == tokens[1:]
    assert near(
        [score["logprob"] for entry in entries for score in entry.values()], own(bench, tokens)
    )
    assert all(score.echoed == [b""] * 4 for score in stretches)


def test_the_answer_is_the_same_with_scores_and_without(bench: EngineHarness) -> None:
    plain = play(engine_of(bench), bench, asked(scoring=None, max_tokens=12))
    rows = [row for message in plain if isinstance(message, StepOutput) for row in message.rows]
    told = alone(bench, asked(max_tokens=12))
    assert told.tokens == [token for row in rows for token in row.tokens]


@pytest.mark.parametrize("scoring", [None, PromptScoring(1)], ids=["plain", "scored"])
@pytest.mark.parametrize("prompt", ["the", TEXT])
def test_no_token_at_all_can_be_asked_for(
    bench: EngineHarness, prompt: str, scoring: PromptScoring | None
) -> None:
    engine = engine_of(bench)
    talking = asked("a fox", scoring=None, max_tokens=9)
    said = play(engine, bench, talking, asked(prompt, scoring=scoring))
    done = [message for message in said if isinstance(message, Done) and message.id == 1]
    assert done == [Done(1, "length", 0, "")]
    assert all(
        row.id == 0 for message in said if isinstance(message, StepOutput) for row in message.rows
    )
    if scoring is not None:
        assert len(Told(said, 1).logprobs) == len(tokens_of(bench, asked(prompt))) - 1


def test_a_prompt_that_fills_the_context_is_scored(bench: EngineHarness) -> None:
    tokens = tokens_of(bench, asked())
    engine = engine_of(bench, context_length=len(tokens))
    assert near(Told(play(engine, bench, asked()), 0).logprobs, own(bench, tokens))
    with pytest.raises(ContextLengthExceeded):
        play(engine, bench, asked(max_tokens=1))
    with pytest.raises(ContextLengthExceeded):
        play(engine, bench, asked(TEXT + " more"))


@pytest.mark.parametrize("count", [1, 4, 9])
def test_after_a_crash_the_scores_are_told_again_and_the_answer_goes_on(
    bench: EngineHarness, count: int
) -> None:
    whole = alone(bench, asked(max_tokens=10))
    said = whole.tokens[:count]
    again = Told(play(engine_of(bench), bench, asked(max_tokens=10), replay=said), 0)
    assert near(again.logprobs, whole.logprobs)
    assert again.lists["tokens"] == whole.lists["tokens"]
    assert said + again.tokens == whole.tokens


def test_more_scores_than_a_prompt_may_have_are_refused_with_the_numbers(
    bench: EngineHarness,
) -> None:
    engine = engine_of(bench, context_length=200_000)
    request = asked([70] * 100_000, scoring=PromptScoring(20))
    with pytest.raises(InvalidRequest, match="100000 tokens of the prompt with 20") as refused:
        play(engine, bench, request)
    assert refused.value.param == "logprobs"


def test_a_chunk_that_is_scored_is_as_long_as_its_logits_leave_room() -> None:
    assert max_scored_tokens(32_000, 1) == 524
    assert max_scored_tokens(256_000, 8) == 8
