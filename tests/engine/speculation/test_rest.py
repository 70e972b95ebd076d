"""Steps without a search for drafts."""

from __future__ import annotations

from mlx_worker.engine.speculation.rest import LONGEST_REST, Rest


def rests(rest: Rest, rows: int = 1) -> int:
    """How many steps go by until drafts are looked for."""
    steps = 0
    while rest.begin_step(rows):
        steps += 1
    return steps


def test_searches_in_vain_are_made_less_and_less_often() -> None:
    rest = Rest()
    lengths: list[int] = []
    for _ in range(7):
        lengths.append(rests(rest))
        rest.record(is_worth=False)
    assert lengths == [0, 1, 2, 4, LONGEST_REST, LONGEST_REST, LONGEST_REST]


def test_search_that_was_worth_it_is_followed_by_another() -> None:
    rest = Rest()
    for _ in range(4):
        rests(rest)
        rest.record(is_worth=False)
    assert rests(rest) == LONGEST_REST
    rest.record(is_worth=True)
    assert rests(rest) == 0
    rest.record(is_worth=False)
    assert rests(rest) == 1


def test_other_number_of_rows_is_searched_for_at_once() -> None:
    rest = Rest()
    for _ in range(4):
        rests(rest)
        rest.record(is_worth=False)
    assert rests(rest, rows=2) == 0
