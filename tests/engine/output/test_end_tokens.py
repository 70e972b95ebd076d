"""Which tokens end an answer: `ignore_eos`, `min_tokens`, `stop_token_ids`, as vLLM means them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.request import ChatRequest, EndConditions, Sampling
from tests.rounds import rounds
from tests.structured_harness import HELLO, EngineHarness
from tests.synthetic_models import IM_END, WORDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.structured_harness import Answer


@pytest.fixture(scope="module")
def bench(tiny: Path) -> EngineHarness:
    return EngineHarness(tiny)


@pytest.fixture(scope="module")
def end(bench: EngineHarness) -> int:
    (token,) = bench.tokenizer.encode(IM_END, add_special_tokens=False)
    assert token in bench.tokenizer.eos_token_ids
    return int(token)


def asked(
    *, ends: EndConditions | None = None, stop: tuple[str, ...] = (), **more: Any
) -> ChatRequest:
    sampling = {"seed": 7, "temperature": 1.0} | more.pop("sampling", {})
    return ChatRequest(
        messages=more.pop("messages", HELLO),
        sampling=Sampling(**sampling),
        max_tokens=more.pop("max_tokens", 24),
        stop=list(stop),
        ends=ends or EndConditions(),
        **more,
    )


def willing(end: int, strength: float = 9.0) -> dict[str, Any]:
    """Samplers of a model that likes to end."""
    return {"sampling": {"logit_bias": {end: strength}}}


def only(answers: list[Answer]) -> Answer:
    (answer,) = answers
    return answer


def test_an_end_is_passed_over_where_ends_are_ignored(bench: EngineHarness, end: int) -> None:
    eager = willing(end, 100.0)
    assert only(bench.play(asked(**eager))).tokens == [end]
    ignoring = only(bench.play(asked(ends=EndConditions(ignore_eos=True), **eager)))
    assert ignoring.tokens == [end] * 24
    assert (ignoring.text, ignoring.finish) == ("", "length")


def test_ends_ignored_are_tokens_of_the_same_answer(bench: EngineHarness, end: int) -> None:
    plain = only(bench.play(asked(**willing(end))))
    assert plain.tokens[-1] == end
    ignoring = only(bench.play(asked(ends=EndConditions(ignore_eos=True), **willing(end))))
    assert ignoring.tokens[: len(plain.tokens)] == plain.tokens
    assert len(ignoring.tokens) == 24


def test_stop_strings_end_an_answer_whose_ends_are_ignored(bench: EngineHarness) -> None:
    ignoring = EndConditions(ignore_eos=True)
    whole = only(bench.play(asked(ends=ignoring))).text
    stop = whole[10:14]
    answer = only(bench.play(asked(ends=ignoring, stop=(stop,))))
    assert (answer.text, answer.finish) == (whole[: whole.index(stop)], "stop")


@pytest.mark.parametrize("least", [1, 7, 23, 24])
def test_no_end_is_said_before_the_least_number_of_tokens(
    bench: EngineHarness, end: int, least: int
) -> None:
    answer = only(bench.play(asked(ends=EndConditions(min_tokens=least), **willing(end, 100.0))))
    assert end not in answer.tokens[:least]
    assert answer.tokens[least:] == [end] * (least < 24)
    assert answer.finish == ("stop" if least < 24 else "length")


def test_a_stop_token_ends_the_answer_and_is_not_shown(bench: EngineHarness) -> None:
    whole = only(bench.play(asked()))
    stop = whole.tokens[5]
    first = whole.tokens.index(stop)
    answer = only(bench.play(asked(ends=EndConditions(stop_token_ids=[stop]))))
    assert answer.tokens == whole.tokens[: first + 1]
    assert answer.finish == "stop"
    assert whole.text.startswith(answer.text)
    assert answer.text == only(bench.play(asked(max_tokens=first))).text if first else True


def test_a_stop_token_ends_an_answer_whose_ends_are_ignored(bench: EngineHarness, end: int) -> None:
    ends = EndConditions(ignore_eos=True, stop_token_ids=[end])
    assert only(bench.play(asked(ends=ends, **willing(end, 100.0)))).tokens == [end]


def test_a_stop_token_is_not_said_before_the_least_number_of_tokens(bench: EngineHarness) -> None:
    stop = only(bench.play(asked())).tokens[3]
    ends = EndConditions(min_tokens=10, stop_token_ids=[stop])
    answer = only(bench.play(asked(ends=ends, sampling={"logit_bias": {stop: 100.0}})))
    assert stop not in answer.tokens[:10]
    assert answer.tokens[10:] == [stop]


def test_a_stop_string_is_text_before_the_least_number_of_tokens(bench: EngineHarness) -> None:
    whole = only(bench.play(asked(max_tokens=24)))
    stop = bench.tokenizer.decode(whole.tokens[2:4])
    assert stop in whole.text
    short = only(bench.play(asked(stop=(stop,))))
    assert (len(short.tokens), short.finish) == (4, "stop")
    longer = only(bench.play(asked(ends=EndConditions(min_tokens=4), stop=(stop,))))
    assert longer.text.startswith(whole.text[: whole.text.index(stop) + len(stop)])
    at_three = only(bench.play(asked(ends=EndConditions(min_tokens=3), stop=(stop,))))
    assert (at_three.tokens, at_three.text) == (short.tokens, short.text)


def test_a_stop_string_that_is_a_token_waits_for_the_least_number_too(
    bench: EngineHarness, end: int
) -> None:
    ends = EndConditions(ignore_eos=True, min_tokens=5)
    request = asked(ends=ends, stop=(IM_END,), **willing(end, 100.0))
    answer = only(bench.play(request))
    assert len(answer.tokens) == 6
    assert answer.tokens[-1] == end


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(EndConditions(min_tokens=12), id="min_tokens", marks=pytest.mark.full),
        pytest.param(EndConditions(ignore_eos=True), id="ignore_eos", marks=pytest.mark.full),
        pytest.param(
            EndConditions(ignore_eos=True, min_tokens=6, stop_token_ids=[70, 71, 72]), id="all"
        ),
    ],
)
def test_neighbours_and_a_crash_after_any_token_change_nothing(
    bench: EngineHarness, end: int, ends: EndConditions
) -> None:
    request = asked(ends=ends, stop=("zz",), **willing(end))
    alone = only(bench.play(request))
    others = [asked(messages=[{"role": "user", "content": word}]) for word in WORDS[:3]]
    first, *_ = bench.play(request, *others)
    assert (first.tokens, first.text, first.finish) == (alone.tokens, alone.text, alone.finish)
    for place in range(1, len(alone.tokens) + 1, rounds(4, 1, 1)):
        after = only(bench.play(request, replay=alone.tokens[:place])).tokens
        assert after == alone.tokens[place:]


def test_a_stop_token_beyond_the_vocabulary_is_refused(bench: EngineHarness) -> None:
    with pytest.raises(InvalidRequest, match="stop_token_ids: token id 999999") as refused:
        bench.play(asked(ends=EndConditions(stop_token_ids=[999_999])))
    assert refused.value.param == "stop_token_ids"
