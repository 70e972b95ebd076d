"""Rows that a draft model drafts for send the same, and leave the same KV, as rows alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.loading import read_model
from mlx_worker.engine.speculation.draft_model import READ_SECONDS, DraftModel
from mlx_worker.wire.request import ChatRequest, EndConditions, Sampling
from tests.drafting_harness import (
    CHEAP,
    FREE,
    Played,
    Result,
    Row,
    assert_same,
    begin_in,
    new_engine,
    play,
)
from tests.rounds import rounds, variants

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlx_worker.engine.engine import Engine

TOKENS = 40
GREEDY = Sampling(seed=0)
SAMPLED = Sampling(seed=11, temperature=0.9, top_p=0.95, top_k=50, min_p=0.01)
PENALTIES = Sampling(seed=3, temperature=0.8, repetition_penalty=1.3, presence_penalty=0.4)


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> tuple[Any, Any]:
    model, tokenizer, _ = read_model(tiny)
    return model, tokenizer


@pytest.fixture(scope="module")
def other(nano: Path) -> Any:
    return read_model(nano)[0]


def drafting(loaded: tuple[Any, Any], draft: Any, *, context: int | None = None) -> Engine:
    """Return an engine whose rows ask `draft`; every draft pays."""
    vocabulary = 1024
    # Long prompts are read in several steps, of 16 tokens each.
    model = DraftModel(draft, CHEAP, vocabulary, context, READ_SECONDS / 16)
    return new_engine(loaded, FREE, draft_model=model)


def row(number: int, sampling: Sampling = GREEDY, **request: Any) -> Row:
    draw = random.Random(number)
    prompt = tuple(draw.randrange(300, 1000) for _ in range(draw.randint(4, 60)))
    settings = {"max_tokens": TOKENS, **request}
    return Row(ChatRequest(messages=[], sampling=sampling, **settings), prompt)


def compare(loaded: tuple[Any, Any], draft: Any, rows: Sequence[Row]) -> tuple[Played, Played]:
    """Play the rows with the draft model and without drafts; both have to be the same."""
    drafted = begin_in(drafting(loaded, draft), rows).finish()
    plain = play(loaded, rows, None)
    assert_same(drafted, plain)
    model = drafted.engine.speculation.draft_model
    assert model is not None
    assert model.nbytes == 0, "rows that have left are forgotten"
    return drafted, plain


@pytest.mark.parametrize(
    "sampling", variants([GREEDY, SAMPLED], [SAMPLED]), ids=["greedy", "sampled"]
)
def test_model_that_drafts_for_itself_is_always_right(
    loaded: tuple[Any, Any], sampling: Sampling
) -> None:
    drafted, plain = compare(loaded, loaded[0], [row(1, sampling)])
    speculation = drafted.engine.speculation
    assert speculation.model_accepted == speculation.model_drafted > TOKENS / 2
    assert plain.steps >= TOKENS
    assert drafted.steps < TOKENS / 2


@pytest.mark.parametrize(
    "sampling", variants([GREEDY, SAMPLED], [SAMPLED]), ids=["greedy", "sampled"]
)
def test_rows_of_a_batch_with_a_draft_model_are_the_same(
    loaded: tuple[Any, Any], sampling: Sampling
) -> None:
    drafted, plain = compare(loaded, loaded[0], [row(number, sampling) for number in range(6)])
    assert drafted.engine.speculation.model_accepted > 6 * TOKENS / 2
    assert drafted.steps < plain.steps


@pytest.mark.full
def test_drafts_of_another_model_are_mostly_wrong_and_change_nothing(
    loaded: tuple[Any, Any], other: Any
) -> None:
    rows = [row(number, SAMPLED if number % 2 else GREEDY) for number in range(5)]
    drafted, _ = compare(loaded, other, rows)
    speculation = drafted.engine.speculation
    assert speculation.model_drafted > speculation.model_accepted
    # Rows that miss stop for a while: fewer passes were wide than rows have tokens.
    assert speculation.model_drafted < 5 * TOKENS


@pytest.mark.full
def test_rows_that_decode_step_by_step_are_the_same_beside_a_draft_model(
    loaded: tuple[Any, Any],
) -> None:
    rows = [
        row(1),
        row(4, PENALTIES),
        row(2, SAMPLED, logprobs=3),
        row(5, GREEDY, ends=EndConditions(min_tokens=5)),
        row(3, SAMPLED),
    ]
    drafted, _ = compare(loaded, loaded[0], rows)
    assert drafted.engine.speculation.model_accepted > TOKENS


def test_rows_join_leave_and_are_cancelled_beside_a_draft_model(loaded: tuple[Any, Any]) -> None:
    rows = [row(number, SAMPLED, max_tokens=10 + 7 * number) for number in range(6)]

    def with_company(engine: Engine) -> list[list[int]]:
        played = begin_in(engine, rows[:1])
        for number, joining in enumerate(rows[1:], start=1):
            played.step()
            played.results.append(Result())
            played.admit(number, joining)
        played.step()
        played.engine.cancel(3)
        played.finish()
        return [result.tokens for place, result in enumerate(played.results) if place != 3]

    engine = drafting(loaded, loaded[0])
    assert with_company(engine) == with_company(new_engine(loaded, None))
    assert engine.speculation.model_accepted > 0


@pytest.mark.parametrize("place", variants([0, 1, 2, 5, 8, 9], default=(1, 5)))
def test_stop_end_and_limit_behind_model_drafts_end_at_the_same_token(
    loaded: tuple[Any, Any], place: int
) -> None:
    whole = row(8, SAMPLED)
    answer = play(loaded, [whole], None).results[0].tokens
    end = EndConditions(stop_token_ids=[answer[place]])
    text = loaded[1].decode(answer[: place + 1])
    rows = [
        Row(ChatRequest([], SAMPLED, TOKENS, ends=end), whole.prompt),
        Row(ChatRequest([], SAMPLED, place + 1), whole.prompt),
        Row(ChatRequest([], SAMPLED, TOKENS, stop=[text[-3:]]), whole.prompt),
    ]
    compare(loaded, loaded[0], rows)


def test_answer_goes_on_from_any_of_its_tokens_with_a_draft_model(loaded: tuple[Any, Any]) -> None:
    first, second = row(9, SAMPLED), row(10, SAMPLED)
    answer = play(loaded, [first], None).results[0].tokens
    for known in range(1, TOKENS, rounds(13, 3, 1)):
        played = begin_in(drafting(loaded, loaded[0]), [second])
        played.step()
        played.results.append(Result())
        played.admit(1, first, replay=answer[:known])
        played.finish()
        assert played.results[1].tokens == answer[known:]


def test_draft_model_reads_no_further_than_its_context(loaded: tuple[Any, Any]) -> None:
    longest = 0

    class Watched:
        layers = loaded[0].layers

        def __call__(self, inputs: Any, cache: Any = None) -> Any:
            nonlocal longest
            answer = loaded[0](inputs, cache=cache)
            longest = max(longest, *(layer.size() for layer in cache))
            return answer

    context = 64
    engine = drafting(loaded, Watched(), context=context)
    begin_in(engine, [row(1, max_tokens=100)]).finish()
    assert 0 < longest <= context
    assert engine.speculation.model_accepted > 0


def test_draft_with_other_logits_than_the_model_s_is_sampled_alike(
    loaded: tuple[Any, Any],
) -> None:
    class Narrow:
        """A model without logits for the last tokens, which only padding has."""

        layers = loaded[0].layers

        def __call__(self, inputs: Any, cache: Any = None) -> Any:
            return loaded[0](inputs, cache=cache)[..., :1000]

    drafted, _ = compare(loaded, Narrow(), [row(2, SAMPLED)])
    speculation = drafted.engine.speculation
    assert speculation.model_accepted > speculation.model_drafted / 2
