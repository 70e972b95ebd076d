"""What a row's lookup proposes."""

from __future__ import annotations

import itertools
import random

from mlx_worker.engine.speculation.drafter import LONGEST_BLIND, Drafter
from mlx_worker.engine.speculation.lookup import FLUSH, LONGEST_EDIT, NEAR, TRUSTED, Lookup
from mlx_worker.engine.speculation.model_trust import LONGEST_PAUSE, ModelRecord


def proposed(
    tokens: list[int], token: int, count: int = 4, prediction: tuple[int, ...] = ()
) -> list[int]:
    """What may follow `token` behind `tokens`."""
    lookup = Lookup(tokens, prediction)
    return lookup.after(token, count) if lookup.find() else []


def test_tokens_that_occurred_before_are_followed_by_the_same() -> None:
    assert proposed([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3], 4) == [5, 6, 7, 9]


def test_latest_occurrence_counts() -> None:
    assert proposed([1, 2, 3, 4, 5, 1, 2, 3, 4, 6, 7, 1, 2, 3], 4, count=2) == [6, 7]


def test_token_that_did_not_follow_before_has_no_draft() -> None:
    assert proposed([1, 2, 3, 4, 5, 1, 2, 3], 9) == []


def test_new_tokens_have_no_draft() -> None:
    assert proposed([1, 2, 3, 4, 5], 6) == []
    assert proposed([1], 1) == []


def test_text_that_repeats_itself_is_continued_with_its_period() -> None:
    assert proposed([9, 1, 2, 1, 2, 1, 2], 1, count=5) == [2, 1, 2, 1, 2]
    assert proposed([9, 7, 7, 7, 7], 7, count=3) == [7, 7, 7]


def test_prediction_is_followed_from_its_first_token() -> None:
    assert proposed([50, 51], 1, prediction=(1, 2, 3, 4, 5, 6)) == [2, 3, 4, 5]


def test_prediction_is_found_again_behind_a_long_change() -> None:
    prediction = tuple(range(100, 130))
    tokens = [1, 2, 3]
    lookup = Lookup(tokens, prediction)
    tokens += prediction[:5]
    assert lookup.catch_up() == (5, 0)
    tokens += range(7, 8 + LONGEST_EDIT)  # in place of one token
    assert lookup.catch_up() == (0, 2)  # one of them could have replaced it
    assert not lookup.find()
    tokens += prediction[6:9]
    assert lookup.catch_up() == (0, 0)
    assert lookup.find()
    assert lookup.follows_prediction
    assert lookup.after(prediction[9], 3) == list(prediction[10:13])


def edited(
    answer: list[int], prediction: tuple[int, ...], count: int = 3
) -> tuple[list[int], Lookup]:
    """What is proposed behind the last token of an answer to which this text was predicted."""
    tokens = [1, 2, 3]
    lookup = Lookup(tokens, prediction)
    for token in answer[:-1]:
        lookup.find()
        tokens.append(token)
        lookup.catch_up()
    lookup.find()
    return lookup.after(answer[-1], count), lookup


def test_prediction_is_followed_at_once_behind_another_token_than_expected() -> None:
    text = tuple(range(100, 140))
    assert edited([*text[:10], 7], text)[0] == list(text[11:14])


def test_prediction_is_followed_at_once_behind_tokens_that_the_answer_leaves_out() -> None:
    text = tuple(range(100, 140))
    for left_out in range(1, NEAR):
        after, _ = edited([*text[:10], text[10 + left_out]], text)
        assert after == list(text[11 + left_out :][:3])


def test_prediction_is_followed_again_at_the_first_token_behind_an_addition() -> None:
    text = tuple(range(100, 140))
    for added in range(1, LONGEST_EDIT + 1):
        after, _ = edited([*text[:10], *range(7, 7 + added), text[10]], text)
        assert after == list(text[11:14])


def test_text_that_goes_on_elsewhere_is_not_looked_for_near_an_edit_any_more() -> None:
    text = tuple(range(100, 140))
    after, lookup = edited([*text[:10], *range(7, 8 + LONGEST_EDIT), text[10]], text)
    assert after == []
    assert not lookup.find()


def test_source_that_was_right_for_short_is_left_at_the_first_other_token() -> None:
    text = tuple(range(100, 140))
    assert edited([*text[: TRUSTED - 1], 7], text)[0] == []
    assert edited([*text[:TRUSTED], 7], text)[0] != []


def test_edit_in_the_copy_of_a_prompt_is_followed_too() -> None:
    text = list(range(100, 140))
    tokens = [*text, 1, 2, 3]
    lookup = Lookup(tokens, ())
    for token in [*text[:12], 7]:
        lookup.find()
        tokens.append(token)
        lookup.catch_up()
    assert lookup.find()
    assert lookup.after(text[13], 3) == text[14:17]


def test_end_of_a_prediction_is_no_edit() -> None:
    text = tuple(range(100, 120))
    after, lookup = edited([*text, 7], text)
    assert after == []
    assert not lookup.find()


def test_repeated_line_of_a_prediction_is_found_where_the_answer_is() -> None:
    line = (1, 2, 3, 4)
    prediction = (10, *line, 11, *line, 12, *line, 13)
    tokens = [0]
    lookup = Lookup(tokens, prediction)
    tokens += prediction[:6]
    lookup.catch_up()
    tokens += [99, *line[:3]]  # the second line, with a word in front
    lookup.catch_up()
    assert lookup.find()
    assert lookup.after(4, 1) == [12]


def test_long_texts_are_searched_as_a_whole() -> None:
    draw = random.Random(1)
    tokens = [draw.randrange(1000, 100_000) for _ in range(3 * FLUSH)]
    first = tokens[:8]
    lookup = Lookup(tokens, ())
    for _ in range(2):
        tokens += [draw.randrange(1000, 100_000) for _ in range(FLUSH)]
        lookup.catch_up()
    tokens += first[:4]
    lookup.catch_up()
    assert lookup.find()
    assert lookup.after(first[4], 3) == first[5:8]


def test_draft_never_has_an_end_token_nor_follows_one() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]
    drafter = Drafter((), {6}, ModelRecord())
    assert drafter.may_draft(tokens)
    assert drafter.draft(4, 7) == [5]
    assert Drafter((), {4}, ModelRecord()).draft(4, 7) == []


def test_hit_rate_follows_what_comes_without_drafts_too() -> None:
    prediction = tuple(range(100, 160))
    tokens = [1]
    record = ModelRecord()
    right, wrong = Drafter(prediction, (), record), Drafter(prediction[::-1], (), record)
    before = right.hit_rate
    for token in prediction[:20]:
        right.may_draft(tokens)
        wrong.may_draft(tokens)
        tokens.append(token)
    assert right.hit_rate > 0.9 > before > wrong.hit_rate


def test_row_that_misses_stops_for_a_while() -> None:
    tokens = [1, 2, 3, 4] * 200
    drafter = Drafter((), (), ModelRecord())
    pauses: list[int] = []
    for _ in range(9):
        assert drafter.may_draft(tokens)
        drafter.record(3, 0, len(tokens))
        before = len(tokens)
        while not drafter.may_draft(tokens):
            tokens.append(tokens[-4])
        pauses.append(len(tokens) - before)
    assert pauses[:5] == [0, 2, 4, 8, 16]
    assert pauses[-1] == LONGEST_PAUSE


def test_row_without_matches_searches_less_often() -> None:
    tokens = list(range(10))
    drafter = Drafter((), (), ModelRecord())
    searches: list[int] = []
    for token in range(10, 200):
        assert not drafter.may_draft(tokens)
        searches.append(drafter._resumes_at)
        tokens.append(token)
    gaps = {later - earlier for earlier, later in itertools.pairwise(searches)}
    assert max(gaps) == LONGEST_BLIND
