"""The line by itself: whose turn it is, who has most, and that its length costs nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.supervisor.requests.fair_queue import Place, TicketQueue
from tests.call_counter import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.supervisor.requests.fair_queue import Ticket


@pytest.fixture(scope="module")
def turn() -> Iterator[Callable[[], Ticket]]:
    loop = asyncio.new_event_loop()
    yield loop.create_future
    loop.close()


class Lists:
    """A line as lists of lists: keys in the order of their turns, each with its sessions so."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[object, list[Ticket]]] = {}

    def add(self, place: Place, turn: Ticket) -> None:
        self.keys.setdefault(place.key, {}).setdefault(place.session, []).append(turn)

    def take(self) -> Ticket:
        key = next(iter(self.keys))
        session, turns = next(iter(self.keys[key].items()))
        first = turns[0]
        self.drop(Place(key, session), first)
        if key in self.keys:
            sessions = self.keys.pop(key)
            self.keys[key] = sessions
            if session in sessions:
                sessions[session] = sessions.pop(session)
        return first

    def drop(self, place: Place, turn: Ticket) -> None:
        sessions = self.keys[place.key]
        sessions[place.session].remove(turn)
        if not sessions[place.session]:
            del sessions[place.session]
        if not sessions:
            del self.keys[place.key]

    def of_key(self, key: str) -> int:
        return sum(map(len, self.keys.get(key, {}).values()))

    def of(self, place: Place) -> list[Ticket]:
        return self.keys.get(place.key, {}).get(place.session, [])

    def check_yielding(self, place: Place, yielding: tuple[Place, Ticket] | None) -> None:
        most = max(map(self.of_key, self.keys), default=0)
        own = max(map(len, self.keys.get(place.key, {}).values()), default=0)
        if yielding is None:
            assert most <= self.of_key(place.key) + 1
            assert own <= len(self.of(place)) + 1
            return
        loser, turn = yielding
        assert self.of(loser)[-1] is turn
        assert len(self.of(loser)) == max(map(len, self.keys[loser.key].values()))
        if loser.key == place.key:
            assert most <= self.of_key(place.key) + 1
            assert len(self.of(loser)) > len(self.of(place)) + 1
        else:
            assert self.of_key(loser.key) == most > self.of_key(place.key) + 1


ACTS = st.lists(
    st.tuples(
        st.sampled_from(("add", "add", "take", "drop", "yield")),
        st.builds(Place, st.sampled_from("ab"), st.integers(0, 2)),
    ),
    max_size=60,
)


@given(acts=ACTS)
def test_it_does_what_lists_of_lists_do(
    turn: Callable[[], Ticket], acts: list[tuple[str, Place]]
) -> None:
    line, lists = TicketQueue(), Lists()
    for act, place in acts:
        if act == "add":
            it = turn()
            line.add(place, it)
            lists.add(place, it)
        elif act == "drop" and lists.of(place):
            it = lists.of(place)[-1]
            line.remove(place, it)
            line.remove(place, it)
            lists.drop(place, it)
        elif act == "take" and len(line):
            assert line.pop() is lists.take()
        elif act == "yield":
            lists.check_yielding(place, line.displaced_by(place))
        assert len(line) == sum(map(lists.of_key, lists.keys))


def test_a_flood_without_names_waits_for_its_own_turns_only(turn: Callable[[], Ticket]) -> None:
    """Forty of one key, each a session of its own, are one turn beside each of another's."""
    line = TicketQueue()
    for number in range(40):
        line.add(Place("flood", number), turn())
    calm = [turn() for _ in range(5)]
    for future in calm:
        line.add(Place("calm", "s"), future)
    order = [line.pop() for _ in range(len(line))]
    assert [order.index(future) for future in calm] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("sessions_each", [1, 3])
def test_coming_yielding_and_taking_turns_cost_the_same_in_a_line_of_any_length(
    turn: Callable[[], Ticket], sessions_each: int
) -> None:
    assert 0 < work(turn, 10_000, sessions_each) <= work(turn, 10, sessions_each)


def work(turn: Callable[[], Ticket], waiting: int, sessions_each: int) -> int:
    """Calls made by coming, yielding and having one's turn, where so many sessions wait."""
    line = TicketQueue()
    for number in range(waiting):
        place = Place(f"key {number // sessions_each}", number)
        for _ in range(2 + number % 3):
            line.add(place, turn())

    def come_and_go() -> None:
        late = Place("late", "late")
        yielding = line.displaced_by(late)
        assert yielding is not None
        line.add(late, turn())
        line.remove(*yielding)
        line.pop()

    made = calls(come_and_go)
    assert len(line) >= waiting
    return made.total()
