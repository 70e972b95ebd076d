"""The line by itself: whose turn it is, who has most, and that its length costs nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.supervisor.line import Line
from tests.counted import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.supervisor.line import Turn


@pytest.fixture(scope="module")
def turn() -> Iterator[Callable[[], Turn]]:
    loop = asyncio.new_event_loop()
    yield loop.create_future
    loop.close()


ACTS = st.lists(
    st.tuples(st.sampled_from(("add", "take", "drop", "yield")), st.integers(0, 3)), max_size=40
)


@given(acts=ACTS)
def test_it_does_what_lists_of_lists_do(
    turn: Callable[[], Turn], acts: list[tuple[str, int]]
) -> None:
    line = Line()
    sessions: list[int] = []
    waiting: dict[int, list[Turn]] = {}

    def gone(session: int, it: Turn) -> None:
        waiting[session].remove(it)
        if not waiting[session]:
            del waiting[session]
            sessions.remove(session)

    for act, who in acts:
        if act == "add":
            it = turn()
            line.add(who, it)
            waiting.setdefault(who, []).append(it)
            if who not in sessions:
                sessions.append(who)
        elif act == "drop" and who in waiting:
            it = waiting[who][-1]
            line.drop(who, it)
            line.drop(who, it)
            gone(who, it)
        elif act == "yield" and sessions:
            session, it = line.last_of_most()
            assert isinstance(session, int)
            assert waiting[session][-1] is it
            assert len(waiting[session]) == max(map(len, waiting.values()))
        elif act == "take" and sessions:
            first = sessions[0]
            it = waiting[first][0]
            assert line.take() is it
            gone(first, it)
            if first in sessions:
                sessions.append(sessions.pop(0))
        assert len(line) == sum(map(len, waiting.values()))
        assert line.most == max(map(len, waiting.values()), default=0)
        assert [line.count(it) for it in range(4)] == [len(waiting.get(it, ())) for it in range(4)]


def work(turn: Callable[[], Turn], waiting: int) -> int:
    """Calls made by coming, yielding and having one's turn, where so many sessions wait."""
    line = Line()
    for session in range(waiting):
        for _ in range(1 + session % 3):
            line.add(session, turn())

    def come_and_go() -> None:
        line.add("late", turn())
        line.drop(*line.last_of_most())
        line.take()

    made = calls(come_and_go)
    assert len(line) >= waiting
    return made.total()


def test_coming_yielding_and_taking_turns_cost_the_same_in_a_line_of_any_length(
    turn: Callable[[], Turn],
) -> None:
    assert 0 < work(turn, 10_000) <= work(turn, 10)
