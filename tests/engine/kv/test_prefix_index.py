"""Who begins with whom, against a look at everybody; and how much has to be looked at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.engine.kv.prefix import common_prefix
from mlx_worker.engine.kv.prefix_index import Indexed, PrefixIndex, Tokens
from tests.call_counter import Token, comparisons
from tests.rounds import variants

sequences = st.lists(st.integers(0, 2), max_size=6).map(tuple)
changes = st.lists(st.tuples(st.booleans(), sequences), max_size=30)


def index_of(changes: list[tuple[bool, Tokens]]) -> tuple[PrefixIndex[Indexed], list[Indexed]]:
    """What is left after adding what is new and removing what is there, where it is asked for."""
    index: PrefixIndex[Indexed] = PrefixIndex()
    known: dict[Tokens, Indexed] = {}
    for adds, tokens in changes:
        if adds and tokens not in known:
            known[tokens] = Indexed(tokens)
            index.add(known[tokens])
        elif not adds and tokens in known:
            index.remove(known.pop(tokens))
    return index, list(known.values())


def begun_with(tokens: Tokens, known: list[Indexed]) -> list[Tokens]:
    """The longest first."""
    found = [entry.tokens for entry in known if tokens[: len(entry.tokens)] == entry.tokens]
    return sorted(found, key=len, reverse=True)


@given(changes, sequences)
def test_all_that_tokens_begin_with_are_found_the_longest_first(
    changes: list[tuple[bool, Tokens]], tokens: Tokens
) -> None:
    index, known = index_of(changes)
    assert [entry.tokens for entry in index.prefixes(tokens)] == begun_with(tokens, known)


@given(changes)
def test_each_knows_the_longest_other_that_it_begins_with(
    changes: list[tuple[bool, Tokens]],
) -> None:
    _, known = index_of(changes)
    for entry in known:
        others = begun_with(entry.tokens, known)[1:]
        assert (entry.within.tokens if entry.within else None) == (others[0] if others else None)


@given(changes, sequences)
def test_a_neighbour_shares_as_much_as_anybody(
    changes: list[tuple[bool, Tokens]], tokens: Tokens
) -> None:
    index, known = index_of(changes)
    near = [common_prefix(entry.tokens, tokens) for entry in index.neighbours(tokens)]
    everybody = [common_prefix(entry.tokens, tokens) for entry in known]
    assert max(near, default=0) == max(everybody, default=0)


CONVERSATION = 2000


def left_at(place: int) -> Tokens:
    """A conversation up to there, then something that later turns do not repeat."""
    return tuple(map(Token, [*range(1, place), 0, 0]))


def compared(branches: int) -> int:
    """In one search for what a conversation begins with, that was left at so many places."""
    index: PrefixIndex[Indexed] = PrefixIndex()
    for place in range(1, CONVERSATION, CONVERSATION // branches):
        index.add(Indexed(left_at(place)))
    asked = tuple(map(Token, range(1, CONVERSATION)))
    return comparisons(lambda: list(index.prefixes(asked)))


@pytest.mark.parametrize("more", variants([4, 16], [4]))
def test_places_where_a_conversation_was_left_cost_a_search_no_more_than_their_logarithm(
    more: int,
) -> None:
    assert CONVERSATION < compared(20 * more) < 3 * compared(20)
