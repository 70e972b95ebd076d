"""Rows that draft send the same, and leave the same KV, as rows that do not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.loading import read_model
from mlx_worker.wire.request import ChatRequest, EndConditions, LoopRule, Sampling
from tests.drafting_harness import (
    FewWords,
    Played,
    Row,
    assert_same,
    begin,
    play,
    with_mistakes,
)
from tests.rounds import rounds, variants

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = 40
GREEDY = Sampling(seed=0)
SAMPLED = Sampling(seed=11, temperature=0.9, top_p=0.95, top_k=50, min_p=0.01)


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> tuple[Any, Any]:
    model, tokenizer, _ = read_model(tiny)
    return model, tokenizer


def row(number: int, sampling: Sampling = GREEDY, **request: Any) -> Row:
    draw = random.Random(number)
    prompt = tuple(draw.randrange(300, 1000) for _ in range(draw.randint(4, 60)))
    settings = {"max_tokens": TOKENS, **request}
    return Row(ChatRequest(messages=[], sampling=sampling, **settings), prompt)


def predicted(loaded: tuple[Any, Any], rows: list[Row], share: float = 0.0) -> list[Row]:
    """The rows, each with its own answer as the prediction, mistakes included."""
    alone = [
        play(loaded, [Row(ChatRequest([], one.request.sampling, TOKENS), one.prompt)], None)
        for one in rows
    ]
    return [
        Row(one.request, one.prompt, with_mistakes(answer.results[0].tokens, number, share))
        for number, (one, answer) in enumerate(zip(rows, alone, strict=True))
    ]


def compare(loaded: tuple[Any, Any], rows: list[Row]) -> tuple[Played, Played]:
    """Play the rows with and without drafts; both have to be the same."""
    drafted, plain = play(loaded, rows), play(loaded, rows, None)
    assert_same(drafted, plain)
    return drafted, plain


@pytest.mark.parametrize(
    "sampling", variants([GREEDY, SAMPLED], [SAMPLED]), ids=["greedy", "sampled"]
)
def test_row_with_a_right_prediction_has_eight_tokens_a_step(
    loaded: tuple[Any, Any], sampling: Sampling
) -> None:
    drafted, plain = compare(loaded, predicted(loaded, [row(1, sampling)]))
    assert plain.steps >= TOKENS
    assert drafted.steps <= TOKENS / 4
    assert drafted.engine.speculation.accepted >= TOKENS * 3 / 4
    done = drafted.results[0].done
    assert done is not None
    assert done.accepted_prediction_tokens == drafted.engine.speculation.accepted
    assert done.rejected_prediction_tokens == 0


@pytest.mark.parametrize(
    "sampling", variants([GREEDY, SAMPLED], [SAMPLED]), ids=["greedy", "sampled"]
)
def test_rows_whose_drafts_are_right_to_different_lengths_are_the_same(
    loaded: tuple[Any, Any], sampling: Sampling
) -> None:
    rows = predicted(loaded, [row(number, sampling) for number in range(5)], share=0.15)
    drafted, plain = compare(loaded, rows)
    assert drafted.steps < plain.steps
    speculation = drafted.engine.speculation
    assert 0 < speculation.accepted < speculation.drafted


def test_rows_that_join_and_are_cancelled_beside_drafts_are_the_same(
    loaded: tuple[Any, Any],
) -> None:
    rows = predicted(loaded, [row(number, SAMPLED) for number in range(6)], share=0.1)

    def with_company(ladder: bool) -> list[list[int]]:
        played = begin(loaded, rows[:1]) if ladder else begin(loaded, rows[:1], None)
        for number, joining in enumerate(rows[1:], start=1):
            played.step()
            played.results.append(type(played.results[0])())
            played.admit(number, joining)
        played.step()
        played.engine.cancel(2)
        cancelled = len(played.results[2].tokens)
        played.finish()
        known = [
            tokens for tokens in played.stored if tokens[: len(rows[2].prompt)] == rows[2].prompt
        ]
        assert [len(tokens) for tokens in known] == [len(rows[2].prompt) + cancelled]
        return [result.tokens for place, result in enumerate(played.results) if place != 2]

    assert with_company(ladder=True) == with_company(ladder=False)


def test_rows_that_decode_step_by_step_are_the_same_beside_drafts(
    loaded: tuple[Any, Any],
) -> None:
    penalties = Sampling(seed=3, temperature=0.8, repetition_penalty=1.3, presence_penalty=0.4)
    first, second, third = predicted(loaded, [row(1), row(2, SAMPLED), row(3, GREEDY, logprobs=3)])
    others = [row(4, penalties), row(5, GREEDY, ends=EndConditions(min_tokens=5)), row(6)]
    drafted, _ = compare(loaded, [first, others[0], second, others[1], third, others[2]])
    assert drafted.engine.speculation.accepted > TOKENS
    assert all(len(output.logprobs) == 1 for output in drafted.results[4].outputs)


@pytest.mark.parametrize("place", variants(range(3, 16), default=(4, 8)))
def test_text_that_ends_in_an_accepted_draft_ends_at_the_same_token(
    loaded: tuple[Any, Any], place: int
) -> None:
    (whole,) = predicted(loaded, [row(7)])
    text = loaded[1].decode(list(whole.prediction[: place + 1]))
    request = ChatRequest([], GREEDY, TOKENS, stop=[text[-3:]])
    drafted, _ = compare(loaded, [Row(request, whole.prompt, whole.prediction)])
    assert drafted.results[0].done is not None
    assert drafted.results[0].done.finish == "stop"


@pytest.mark.parametrize("place", variants([0, 1, 2, 5, 8, 9], default=(1, 5)))
def test_end_token_and_limit_behind_drafts_end_the_row_at_the_same_token(
    loaded: tuple[Any, Any], place: int
) -> None:
    (whole,) = predicted(loaded, [row(8, SAMPLED)])
    end = EndConditions(stop_token_ids=[whole.prediction[place]])
    rows = [
        Row(ChatRequest([], SAMPLED, TOKENS, ends=end), whole.prompt, whole.prediction),
        Row(ChatRequest([], SAMPLED, place + 1), whole.prompt[1:], whole.prediction),
    ]
    compare(loaded, rows)


def test_answer_that_loops_ends_at_the_same_token(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    mute = (FewWords(model, [400]), tokenizer)
    request = ChatRequest([], GREEDY, 200, loop_rule=LoopRule(4, 30))
    drafted, plain = compare(mute, [Row(request, (400, 401, 402))])
    done = drafted.results[0].done
    assert done is not None
    assert done.loop_period == 1
    assert drafted.steps < plain.steps / 2


@pytest.mark.parametrize(
    "sampling", variants([GREEDY, SAMPLED], [SAMPLED]), ids=["greedy", "sampled"]
)
def test_answer_goes_on_from_any_of_its_tokens(loaded: tuple[Any, Any], sampling: Sampling) -> None:
    first, second = predicted(loaded, [row(9, sampling), row(10, sampling)], share=0.05)
    answer = play(loaded, [first], None).results[0].tokens
    for known in range(1, TOKENS, rounds(13, 3, 1)):
        played = begin(loaded, [second])
        played.step()
        played.results.append(type(played.results[0])())
        played.admit(1, first, replay=answer[:known])
        played.finish()
        assert played.results[1].tokens == answer[known:]


def test_row_near_the_end_of_the_context_reads_no_further(loaded: tuple[Any, Any]) -> None:
    longest = 0

    class Watched(FewWords):
        def __call__(self, inputs: Any, cache: Any = None) -> Any:
            nonlocal longest
            longest = max(longest, inputs.shape[1] + (cache[0].size() if cache else 0))
            return super().__call__(inputs, cache)

    model, tokenizer = loaded
    watched = (Watched(model, [400]), tokenizer)
    played = begin(watched, [])
    context = 64
    played.engine = type(played.engine)(
        *watched,
        context_length=context,
        max_concurrency=1,
        ladder=played.engine.speculation._ladder,
    )
    played.results.append(type(begin(watched, [row(1)]).results[0])())
    played.admit(0, Row(ChatRequest([], GREEDY, None), (400,) * 10))
    longest = 0
    played.finish()
    assert played.engine.speculation.accepted > 0
    assert longest <= context
