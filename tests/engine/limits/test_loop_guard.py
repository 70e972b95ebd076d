"""The loop guard against the plain definition of a loop, and what a token costs."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_worker.engine.limits.loop_guard import WINDOW, LoopGuard
from mlx_worker.wire.request import LoopRule
from tests.call_counter import calls
from tests.rounds import rounds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def has_period(tokens: Sequence[int], period: int) -> bool:
    return all(tokens[i] == tokens[i - period] for i in range(period, len(tokens)))


def first_loop(tokens: Sequence[int], rule: LoopRule) -> tuple[int, int] | None:
    """Return after how many tokens an answer loops, and the shortest period, by the definition."""
    for end in range(1, len(tokens) + 1):
        for period in range(1, end // rule.repeats + 1):
            needed = max(rule.tokens, rule.repeats * period)
            if needed <= end and has_period(tokens[end - needed : end], period):
                return end, period
    return None


def guarded(tokens: Iterable[int], rule: LoopRule) -> tuple[int, int] | None:
    """Return what the guard finds: the same, in the same form."""
    guard = LoopGuard(rule)
    for count, token in enumerate(tokens, 1):
        guard.add(token)
        if guard.period:
            assert guard.repeated_tokens == max(rule.tokens, rule.repeats * guard.period)
            return count, guard.period
    return None


RULES = st.builds(
    LoopRule, repeats=st.integers(2, 6) | st.integers(7, 40), tokens=st.integers(16, 40)
)
PIECES = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 50))


@given(rule=RULES, pieces=st.lists(PIECES, max_size=6))
@settings(max_examples=rounds(150, 2_000, 20_000))
def test_loop_guard_repeated_pieces_ends_where_the_definition_does(
    rule: LoopRule, pieces: list[tuple[list[int], int]]
) -> None:
    tokens = [token for piece, length in pieces for token in islice(cycle(piece), length)]
    assert guarded(tokens, rule) == first_loop(tokens, rule)


@given(rule=RULES, tokens=st.lists(st.integers(0, 1), max_size=160))
@settings(max_examples=rounds(60, 1_000, 10_000))
def test_loop_guard_two_tokens_ends_where_the_definition_does(
    rule: LoopRule, tokens: list[int]
) -> None:
    assert guarded(tokens, rule) == first_loop(tokens, rule)


@pytest.mark.parametrize("before", [0, 1, 63, 64, 65, 700])
@pytest.mark.parametrize(("period", "repeats"), [(1, 4), (7, 4), (64, 4), (65, 4), (300, 2)])
def test_loop_guard_default_rule_ends_at_the_token(before: int, period: int, repeats: int) -> None:
    varied = range(1_000, 1_000 + before)
    needed = max(256, repeats * period)
    looped = islice(cycle(range(0xD7F0, 0xD7F0 + period)), needed + 100)  # also no characters
    found = guarded([*varied, *looped], LoopRule(repeats, 256))
    assert found == (before + needed, period)


@pytest.mark.parametrize("period", [WINDOW // 4, WINDOW // 4 + 1])
def test_loop_guard_period_beyond_its_window_finds_no_loop(period: int) -> None:
    tokens = islice(cycle(range(period)), 5 * period)
    found = guarded(tokens, LoopRule(4, 256))
    assert found == ((WINDOW, period) if period <= WINDOW // 4 else None)


def test_loop_guard_repeats_without_end_cost_few_calls_a_token() -> None:
    # Repeats that never become a loop: most of one, again and again.
    answers = {
        "long pieces": [token for n in range(60) for token in 3 * list(range(n, n + 180))],
        "one token": [token for n in range(60) for token in [*[7] * 255, n + 8]],
    }
    for name, tokens in answers.items():
        guard = LoopGuard(LoopRule(4, 256))

        def watch(guard: LoopGuard = guard, tokens: list[int] = tokens) -> None:
            for token in tokens:
                guard.add(token)

        made = calls(watch)
        assert not guard.period
        assert made.total() < 12 * len(tokens), name
