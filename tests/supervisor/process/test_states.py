"""The table of a child's life, written a second time: a change has to be made in both."""

from __future__ import annotations

import itertools
from typing import Final

import pytest

from mlx_worker.supervisor.process.states import (
    TRANSITIONS,
    WAITING,
    Event,
    IllegalEvent,
    State,
    transition,
)

# A column a state, a row an event; a dot where the event cannot happen.
GRID: Final = """
            STOPPED  STARTING LOADING  READY    DRAINING STOPPING KILLING  BACKOFF  FAILED
START       STARTING .        .        .        .        STOPPING KILLING  .        STARTING
HELLO       .        LOADING  .        .        .        .        .        .        .
LOADED      .        .        READY    .        .        .        .        .        .
LOAD_FAILED .        .        KILLING  .        .        .        .        .        .
CANNOT_LOAD .        .        KILLING  .        .        .        .        .        .
CANNOT_START FAILED  .        .        .        .        .        .        .        FAILED
CAN_START   .        .        .        .        .        .        .        .        STOPPED
NOT_SPAWNED .        BACKOFF  .        .        .        .        .        .        .
STOP        STOPPED  STOPPING STOPPING DRAINING DRAINING STOPPING STOPPING STOPPED  STOPPED
RESTART     STARTING STOPPING STOPPING DRAINING DRAINING STOPPING KILLING  STARTING STARTING
UNLOAD      .        .        .        STOPPING .        .        .        .        .
DRAINED     .        .        .        .        STOPPING .        .        .        .
HURRY       .        .        .        .        STOPPING .        .        .        .
STALLED     .        .        .        KILLING  KILLING  .        KILLING  .        .
GARBAGE     .        KILLING  KILLING  KILLING  KILLING  STOPPING KILLING  .        .
LINK_LOST   .        KILLING  KILLING  KILLING  KILLING  STOPPING KILLING  .        FAILED
EXITED      .        BACKOFF  BACKOFF  BACKOFF  STOPPED  STOPPED  BACKOFF  .        FAILED
DEVICE_LOST .        BACKOFF  BACKOFF  BACKOFF  STOPPED  STOPPED  BACKOFF  .        FAILED
DEADLINE    .        KILLING  KILLING  .        STOPPING KILLING  FAILED   STARTING STARTING
GIVE_UP     .        .        .        .        .        .        .        FAILED   .
"""


def _read(grid: str) -> dict[tuple[State, Event], State | None]:
    header, *rows = [line.split() for line in grid.strip().splitlines()]
    return {
        (State[column], Event[event]): None if cell == "." else State[cell]
        for event, *cells in rows
        for column, cell in zip(header, cells, strict=True)
    }


EXPECTED: Final = _read(GRID)
EVERY_PAIR: Final = list(itertools.product(State, Event))


def reachable(start: State) -> set[State]:
    found, edge = {start}, [start]
    while edge:
        for state in TRANSITIONS[edge.pop()].values():
            if state not in found:
                found.add(state)
                edge.append(state)
    return found


def test_the_grid_speaks_of_every_state_and_every_event() -> None:
    assert set(EXPECTED) == set(EVERY_PAIR)


@pytest.mark.parametrize(
    ("state", "event"), EVERY_PAIR, ids=[f"{s.name}-{e.name}" for s, e in EVERY_PAIR]
)
def test_an_event_leads_where_the_grid_says_or_cannot_happen(state: State, event: Event) -> None:
    expected = EXPECTED[state, event]
    if expected is not None:
        assert transition(state, event) is expected
        return
    with pytest.raises(IllegalEvent, match=f"{event.name} cannot happen in {state.name}") as caught:
        transition(state, event)
    assert (caught.value.state, caught.value.event) == (state, event)


def test_the_states_that_wait_are_those_that_a_deadline_ends() -> None:
    assert {state for state in State if Event.DEADLINE in TRANSITIONS[state]} == WAITING


@pytest.mark.parametrize("state", sorted(WAITING))
def test_a_deadline_never_leads_back_to_where_it_passed(state: State) -> None:
    assert transition(state, Event.DEADLINE) is not state


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("goal", [State.READY, State.STOPPED, State.FAILED])
def test_no_state_is_a_trap(state: State, goal: State) -> None:
    assert goal in reachable(state)


@pytest.mark.parametrize("state", State)
def test_the_node_may_ask_any_child_to_stop(state: State) -> None:
    assert Event.STOP in TRANSITIONS[state]


def test_only_a_loaded_model_is_ready() -> None:
    ways = {
        (state, event)
        for state, row in TRANSITIONS.items()
        for event, after in row.items()
        if after is State.READY
    }
    assert ways == {(State.LOADING, Event.LOADED)}


def test_a_child_is_started_only_after_its_end_was_seen_or_before_its_first() -> None:
    """Two processes of one model would share its memory."""
    sources = {state for state, row in TRANSITIONS.items() if State.STARTING in row.values()}
    assert sources == {State.STOPPED, State.BACKOFF, State.FAILED}
    into_backoff = {
        event for row in TRANSITIONS.values() for event, to in row.items() if to is State.BACKOFF
    }
    assert into_backoff == {Event.EXITED, Event.DEVICE_LOST, Event.NOT_SPAWNED}
