"""One child's decisions, at times that the test says."""

from __future__ import annotations

import copy
import itertools
import random
from typing import Final

import pytest

from mlx_worker.supervisor.process.lifecycle import Lifecycle, Timings
from mlx_worker.supervisor.process.restart_policy import RestartPolicy, RestartWindow
from mlx_worker.supervisor.process.states import TRANSITIONS, Event, IllegalEvent, State

# All different, so that no deadline can pass for another.
TIMINGS: Final = Timings(start=60, load=70, stall=80, drain=30, stop=5, kill=10, ping=1)
POLICY: Final = RestartPolicy(base=2.0, ceiling=30.0, intensity=2, period=100.0)

TO_LOADING: Final = (Event.START, Event.HELLO)
TO_READY: Final = (*TO_LOADING, Event.LOADED)
TO_BACKOFF: Final = (*TO_READY, Event.EXITED)
WAYS: Final[dict[State, tuple[Event, ...]]] = {
    State.STOPPED: (),
    State.STARTING: (Event.START,),
    State.LOADING: TO_LOADING,
    State.READY: TO_READY,
    State.DRAINING: (*TO_READY, Event.STOP),
    State.STOPPING: (*TO_LOADING, Event.STOP),
    State.KILLING: (*TO_READY, Event.GARBAGE),
    State.BACKOFF: TO_BACKOFF,
    State.FAILED: (*TO_LOADING, Event.CANNOT_LOAD, Event.EXITED),
}


def life(*events: Event, now: float = 0.0, policy: RestartPolicy = POLICY) -> Lifecycle:
    """A child to which these happened, all at one moment."""
    made = Lifecycle(TIMINGS, RestartWindow(policy, random.Random(7)))
    for event in events:
        made.apply(event, now)
    return made


@pytest.mark.parametrize("state", State)
def test_the_ways_used_here_lead_where_they_say(state: State) -> None:
    assert life(*WAYS[state]).state is state


@pytest.mark.parametrize(
    ("state", "event"),
    [pair for pair in itertools.product(State, Event) if pair[1] not in TRANSITIONS[pair[0]]],
)
def test_an_event_that_cannot_happen_changes_nothing(state: State, event: Event) -> None:
    child = life(*WAYS[state])
    before = vars(child).copy()
    with pytest.raises(IllegalEvent):
        child.apply(event, 1000.0, "must not be kept")
    assert vars(child) == before


# --- deadlines ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "patience"),
    [
        (State.STARTING, 60),
        (State.LOADING, 70),
        (State.DRAINING, 30),
        (State.STOPPING, 5),
        (State.KILLING, 10),
    ],
)
def test_a_state_that_waits_waits_as_long_as_the_timings_say(state: State, patience: float) -> None:
    assert life(*WAYS[state], now=1000.0).deadline == 1000.0 + patience


@pytest.mark.parametrize("state", [State.STOPPED, State.READY])
def test_a_state_at_rest_waits_for_nothing(state: State) -> None:
    assert life(*WAYS[state], now=1000.0).deadline is None


@pytest.mark.parametrize("seed", range(20))
def test_the_first_backoff_lasts_at_most_the_base(seed: int) -> None:
    child = Lifecycle(TIMINGS, RestartWindow(POLICY, random.Random(seed)))
    for event in TO_BACKOFF:
        child.apply(event, 1000.0)
    assert child.deadline is not None
    assert 1000.0 <= child.deadline <= 1000.0 + POLICY.base


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.DRAINING, Event.STOP),
        (State.STOPPING, Event.STOP),
        (State.STOPPING, Event.GARBAGE),
        (State.STOPPING, Event.LINK_LOST),
        (State.KILLING, Event.GARBAGE),
        (State.KILLING, Event.LINK_LOST),
        (State.KILLING, Event.STALLED),
    ],
)
def test_an_event_that_leads_nowhere_buys_no_time(state: State, event: Event) -> None:
    child = life(*WAYS[state], now=1000.0)
    deadline = child.deadline
    assert child.apply(event, 1003.0) is state
    assert child.deadline == deadline


def test_progress_of_the_load_buys_the_whole_time_anew() -> None:
    child = life(*TO_LOADING, now=1000.0)
    child.extend_load_deadline(1069.0)
    assert child.deadline == 1069.0 + TIMINGS.load


@pytest.mark.parametrize("state", [state for state in State if state is not State.LOADING])
def test_progress_elsewhere_moves_no_deadline(state: State) -> None:
    child = life(*WAYS[state], now=1000.0)
    before = vars(child).copy()
    child.extend_load_deadline(1001.0)
    assert vars(child) == before


# --- again, or given up -------------------------------------------------------------------


def test_a_child_that_ended_is_started_again_after_its_delay() -> None:
    assert life(*TO_BACKOFF, Event.DEADLINE).state is State.STARTING


def test_one_end_too_many_and_the_child_is_given_up() -> None:
    child = life(*TO_BACKOFF, Event.DEADLINE, Event.EXITED, Event.DEADLINE)
    assert child.apply(Event.EXITED, 1.0, "exit status 3") is State.FAILED
    assert child.reason == "exit status 3"
    assert child.given_up_after == 3


def test_ends_further_apart_than_the_period_are_forgiven() -> None:
    child = life()
    child.apply(Event.START, 0.0)
    for now in range(0, 10_000, 101):
        assert child.apply(Event.EXITED, float(now)) is State.BACKOFF
        child.apply(Event.DEADLINE, float(now))


def test_a_model_that_cannot_be_loaded_is_given_up_at_once() -> None:
    child = life(*TO_LOADING)
    child.apply(Event.CANNOT_LOAD, 0.0, "no weights")
    assert child.apply(Event.EXITED, 0.0, "exit status 1") is State.FAILED
    assert child.reason == "no weights"
    assert child.given_up_after == 1


def test_a_model_that_cannot_be_loaded_is_given_up_even_if_its_pipe_closes_first() -> None:
    """The child says so and leaves: its EOF may be seen before its exit status."""
    child = life(*TO_LOADING)
    child.apply(Event.CANNOT_LOAD, 0.0, "no weights")
    child.apply(Event.LINK_LOST, 0.0, "the process closed its pipe")
    assert child.apply(Event.EXITED, 0.0, "exit status 1") is State.FAILED
    assert child.reason == "no weights"


def test_a_load_that_failed_for_now_is_tried_again() -> None:
    child = life(*TO_LOADING)
    child.apply(Event.LOAD_FAILED, 0.0, "out of memory")
    assert child.apply(Event.EXITED, 0.0) is State.BACKOFF
    assert child.reason == "out of memory"


def test_an_operators_start_gives_a_clean_sheet() -> None:
    child = life(*TO_BACKOFF, *(Event.DEADLINE, Event.EXITED) * 2)
    assert child.state is State.FAILED
    child.apply(Event.START, 0.0)
    assert child.reason == ""
    assert child.apply(Event.EXITED, 0.0) is State.BACKOFF
    assert child.deadline is not None
    assert child.deadline <= POLICY.base


def test_an_operators_start_gives_hope_to_a_model_that_could_not_be_loaded() -> None:
    child = life(*WAYS[State.FAILED], Event.START)
    assert child.apply(Event.EXITED, 0.0) is State.BACKOFF


# --- the reason ---------------------------------------------------------------------------

Happened = tuple[Event, str]


@pytest.mark.parametrize(
    ("happened", "kept"),
    [
        ([(Event.EXITED, "exit status 1")], "exit status 1"),
        ([(Event.LINK_LOST, "pipe"), (Event.EXITED, "killed by SIGABRT")], "killed by SIGABRT"),
        ([(Event.GARBAGE, "noise"), (Event.EXITED, "killed by SIGKILL")], "noise"),
        ([(Event.STALLED, "hung"), (Event.EXITED, "killed by SIGKILL")], "hung"),
        ([(Event.GARBAGE, "noise"), (Event.LINK_LOST, "pipe"), (Event.EXITED, "killed")], "noise"),
        ([(Event.STALLED, "hung"), (Event.GARBAGE, "noise"), (Event.EXITED, "killed")], "hung"),
    ],
)
def test_the_reason_is_the_cause_and_not_its_consequences(
    happened: list[Happened], kept: str
) -> None:
    child = life(*TO_READY)
    for event, reason in happened:
        child.apply(event, 0.0, reason)
    assert (child.state, child.reason) == (State.BACKOFF, kept)


@pytest.mark.parametrize("late", [Event.EXITED, Event.LINK_LOST])
def test_what_happens_to_a_child_given_up_does_not_change_why(late: Event) -> None:
    child = life(*WAYS[State.KILLING])
    child.apply(Event.DEADLINE, 0.0, "outlived SIGKILL")
    child.apply(late, 0.0, "too late")
    assert (child.state, child.reason) == (State.FAILED, "outlived SIGKILL")


def test_an_event_without_a_reason_is_one_itself() -> None:
    assert life(*TO_LOADING, Event.DEADLINE).reason == "deadline passed while loading"


def test_the_reason_stays_while_the_child_comes_back() -> None:
    child = life(*TO_READY)
    child.apply(Event.EXITED, 0.0, "killed by SIGKILL")
    for event in (Event.DEADLINE, Event.HELLO):
        child.apply(event, 0.0)
        assert child.reason == "killed by SIGKILL"


# --- counting -----------------------------------------------------------------------------


def test_every_start_is_an_incarnation_and_every_one_but_the_first_a_restart() -> None:
    child = life()
    assert (child.incarnation, child.restarts) == (0, 0)
    child.apply(Event.START, 0.0)
    assert (child.incarnation, child.restarts) == (1, 0)
    for event in (Event.HELLO, Event.LOADED, Event.EXITED):
        child.apply(event, 0.0)
        assert (child.incarnation, child.restarts) == (1, 0)
    child.apply(Event.DEADLINE, 0.0)
    assert (child.incarnation, child.restarts) == (2, 1)


# --- stopping -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        pytest.param((*TO_READY, Event.STOP, Event.GARBAGE, Event.EXITED), id="garbage in a drain"),
        pytest.param((*TO_READY, Event.STOP, Event.STALLED, Event.EXITED), id="hung in a drain"),
        pytest.param((Event.START, Event.STOP, Event.DEADLINE, Event.EXITED), id="deaf"),
        pytest.param((*TO_READY, Event.GARBAGE, Event.STOP, Event.EXITED), id="being killed"),
        pytest.param((*TO_BACKOFF, Event.STOP), id="waiting to come back"),
        pytest.param((*TO_READY, Event.STOP, Event.EXITED), id="dies in a drain"),
    ],
)
def test_a_child_that_nobody_wants_does_not_come_back(events: tuple[Event, ...]) -> None:
    child = life(*events)
    assert (child.state, child.deadline) == (State.STOPPED, None)


def test_a_child_that_was_stopped_and_started_is_wanted_again() -> None:
    child = life(*TO_READY, Event.STOP, Event.EXITED, *TO_READY, Event.EXITED)
    assert child.state is State.BACKOFF


@pytest.mark.parametrize("state", State)
def test_restart_leads_to_a_new_process_and_never_rests_in_between(state: State) -> None:
    """Follows every event that can happen after RESTART until the next process starts."""
    restarted = life(*WAYS[state])
    before = restarted.incarnation
    restarted.apply(Event.RESTART, 0.0)
    walks: list[tuple[Lifecycle, tuple[State, ...]]] = [(restarted, (restarted.state,))]
    while walks:
        child, path = walks.pop()
        assert child.desired_running
        if child.incarnation > before:
            assert child.state is State.STARTING
            continue
        assert len(path) <= 5, path
        if child.state is State.FAILED:
            assert path[-2] is State.KILLING, path  # it outlives SIGKILL: an operator's affair
            continue
        waits = {State.DRAINING, State.STOPPING, State.KILLING, State.BACKOFF}
        assert child.state in waits, path
        asked = {Event.START, Event.STOP, Event.RESTART, Event.GIVE_UP}
        for event in set(TRANSITIONS[child.state]) - asked:
            after = copy.deepcopy(child)
            if after.apply(event, 0.0) is not child.state:
                walks.append((after, (*path, after.state)))


def test_restart_forgets_what_led_to_giving_up() -> None:
    child = life(*WAYS[State.FAILED])
    assert child.reason
    child.apply(Event.RESTART, 0.0)
    assert (child.state, child.reason) == (State.STARTING, "")


@pytest.mark.parametrize("state", State)
def test_stop_ends_in_stopped_whatever_happens(state: State) -> None:
    """Follows every event that can happen after STOP, the worst included.

    Events that change nothing are left out: they move no deadline, so it passes in the end. Only
    a process that outlives SIGKILL is FAILED first, and STOPPED when it is asked once more.
    """
    stopped = life(*WAYS[state])
    stopped.apply(Event.STOP, 0.0)
    walks: list[tuple[Lifecycle, tuple[State, ...]]] = [(stopped, (stopped.state,))]
    while walks:
        child, path = walks.pop()
        if child.state is State.STOPPED:
            continue
        assert len(path) <= 5, path
        assert child.state in {State.DRAINING, State.STOPPING, State.KILLING, State.FAILED}, path
        events = set(TRANSITIONS[child.state]) - {Event.START, Event.STOP, Event.RESTART}
        if child.state is State.FAILED:
            assert path[-2] is State.KILLING
            events = {Event.STOP}  # the node lets no deadline of FAILED through while it stops
        for event in events:
            after = copy.deepcopy(child)
            if after.apply(event, 0.0) is not child.state:
                walks.append((after, (*path, after.state)))


# --- slow retries -------------------------------------------------------------------------

RETRYING: Final = RestartPolicy(
    base=0.0, ceiling=0.0, intensity=0, period=10.0, retry_initial=40.0, retry_max=100.0
)


def given_up(times: int) -> Lifecycle:
    """A child given up so often, each time at its slow retry."""
    child = life(*TO_READY, policy=RETRYING)
    now = 0.0
    for _ in range(times):
        child.apply(Event.EXITED, now, "exit status 3")
        assert child.state is State.FAILED
        assert child.deadline is not None
        now = child.deadline
        child.apply(Event.DEADLINE, now)
    return child


@pytest.mark.parametrize(("times", "longest"), [(0, 40.0), (1, 80.0), (2, 100.0), (9, 100.0)])
def test_slow_retries_double_and_half_of_each_pause_is_certain(times: int, longest: float) -> None:
    child = given_up(times)
    child.apply(Event.EXITED, 5000.0)
    assert child.state is State.FAILED
    assert child.deadline is not None
    assert longest / 2 <= child.deadline - 5000.0 <= longest


def test_a_slow_retry_keeps_the_reason_and_is_wanted() -> None:
    child = given_up(1)
    assert (child.state, child.reason) == (State.STARTING, "exit status 3")
    assert child.desired_running
    assert child.given_up


def test_ready_is_the_end_of_having_been_given_up() -> None:
    child = given_up(1)
    for event in (Event.HELLO, Event.LOADED):
        child.apply(event, 100.0)
    assert not child.given_up


def test_a_stable_child_is_given_up_for_a_short_time_again() -> None:
    child = given_up(5)
    for event in (Event.HELLO, Event.LOADED):
        child.apply(event, 5000.0)
    child.apply(Event.EXITED, 5000.0 + RETRYING.period)
    assert child.deadline is not None
    assert child.deadline - 5010.0 <= RETRYING.retry_initial


def test_an_operators_start_begins_slow_retries_anew() -> None:
    child = given_up(5)
    child.apply(Event.EXITED, 1000.0)
    child.apply(Event.START, 1000.0)
    child.apply(Event.EXITED, 1000.0)
    assert child.deadline is not None
    assert child.deadline - 1000.0 <= RETRYING.retry_initial


def test_a_folder_that_still_cannot_be_used_at_the_retry_moves_the_next_one() -> None:
    child = life(Event.CANNOT_START, policy=RETRYING)
    first = child.deadline
    assert first is not None
    child.apply(Event.CANNOT_START, first - 1, "early: seen because the folder changed")
    assert child.deadline == first
    child.apply(Event.CANNOT_START, first, "still away")
    assert child.deadline >= first + 40.0
    assert child.reason == "still away"


def test_a_process_that_could_not_be_spawned_is_no_end() -> None:
    child = life(Event.START, policy=RETRYING)
    for now in range(50):
        assert child.apply(Event.NOT_SPAWNED, float(now), "EMFILE") is State.BACKOFF
        child.apply(Event.DEADLINE, float(now))
    assert child.recent_ends(50.0) == (0, 0)


@pytest.mark.parametrize("last_is_counted", [True, False])
def test_a_pardon_takes_back_as_many_ends_as_were_caused(last_is_counted: bool) -> None:
    window = RestartWindow(POLICY, random.Random(7))
    caused = 2
    for now in range(caused if last_is_counted else caused - 1):
        window.count_end(float(now))
    window.forgive_ends(caused, last_is_counted=last_is_counted)
    if not last_is_counted:
        window.count_end(5.0)
    assert window.recent_ends(5.0) == 0
    window.count_end(6.0)
    assert window.recent_ends(6.0) == 1
