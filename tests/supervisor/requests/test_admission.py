"""Who gets a place, in what order, and that none is lost."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_worker.errors import QueueFull
from mlx_worker.supervisor.requests.admission import Admission, estimated_wait
from tests.rounds import rounds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence


async def settle() -> None:
    """Let everybody who can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def soon(work: Awaitable[None]) -> None:
    await asyncio.wait_for(work, timeout=5)


async def waiting(admission: Admission, count: int) -> list[asyncio.Task[None]]:
    """This many callers in line, in this order."""
    tasks = [asyncio.create_task(admission.take_slot()) for _ in range(count)]
    await settle()
    assert not any(task.done() for task in tasks)
    return tasks


async def full(places: int = 1, max_queue: int = 8) -> Admission:
    admission = Admission("nano", places, max_queue)
    for _ in range(places):
        await soon(admission.take_slot())
    return admission


async def test_places_are_given_at_once_while_there_are_any() -> None:
    admission = Admission("nano", 3, 0)
    for taken in range(1, 4):
        await soon(admission.take_slot())
        assert (admission.running, admission.queued) == (taken, 0)


async def test_a_place_given_back_is_free_again() -> None:
    admission = await full(places=1, max_queue=0)
    admission.release_slot()
    assert admission.running == 0
    await soon(admission.take_slot())
    assert admission.running == 1


async def test_places_are_handed_over_in_the_order_of_arrival() -> None:
    admission = await full(places=2)
    tasks = await waiting(admission, 4)
    for turn in range(4):
        admission.release_slot()
        await settle()
        assert [task.done() for task in tasks] == [i <= turn for i in range(4)]
        assert (admission.running, admission.queued) == (2, 3 - turn)


async def test_a_later_request_overtakes_no_waiting_one() -> None:
    admission = await full()
    (first,) = await waiting(admission, 1)
    admission.release_slot()
    late = asyncio.create_task(admission.take_slot())
    await settle()
    assert (first.done(), late.done()) == (True, False)
    admission.release_slot()
    await soon(late)


async def test_one_more_than_may_wait_is_refused_with_the_numbers() -> None:
    admission = await full(places=2, max_queue=3)
    tasks = await waiting(admission, 3)
    with pytest.raises(QueueFull, match=r"'nano' runs 2 requests and 3 wait.*max_queue is 3") as e:
        await soon(admission.take_slot())
    assert e.value.retry_after is not None
    assert e.value.retry_after > 0
    assert (admission.running, admission.queued) == (2, 3)
    for task in tasks:
        admission.release_slot()
        await soon(task)


async def test_without_a_queue_the_first_too_many_is_refused() -> None:
    admission = await full(places=1, max_queue=0)
    with pytest.raises(QueueFull, match="max_queue is 0"):
        await soon(admission.take_slot())


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_who_leaves_the_line_gives_up_only_its_own_place_in_it(left: int) -> None:
    admission = await full()
    tasks = await waiting(admission, 3)
    tasks.pop(left).cancel()
    await settle()
    assert (admission.running, admission.queued) == (1, 2)
    for task in tasks:
        admission.release_slot()
        await soon(task)
    assert (admission.running, admission.queued) == (1, 0)


async def test_who_leaves_as_its_turn_comes_hands_the_place_on() -> None:
    admission = await full()
    left, follower = await waiting(admission, 2)
    admission.release_slot()
    left.cancel()
    await settle()
    assert left.cancelled()
    assert follower.done()
    assert (admission.running, admission.queued) == (1, 0)


async def test_who_leaves_just_before_its_turn_comes_is_passed_over() -> None:
    admission = await full()
    left, follower = await waiting(admission, 2)
    left.cancel()
    admission.release_slot()
    await settle()
    assert left.cancelled(), left.exception()
    assert follower.done()
    assert (admission.running, admission.queued) == (1, 0)


async def test_when_all_who_waited_have_left_the_place_is_free() -> None:
    admission = await full()
    tasks = await waiting(admission, 2)
    for task in tasks:
        task.cancel()
    admission.release_slot()
    await settle()
    assert [task.cancelled() for task in tasks] == [True, True]
    assert (admission.running, admission.queued) == (0, 0)
    await soon(admission.take_slot())


# --- sessions -----------------------------------------------------------------------------


async def in_line(admission: Admission, *sessions: str) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(admission.take_slot(session)) for session in sessions]
    await settle()
    return tasks


async def turns(admission: Admission, tasks: list[asyncio.Task[None]]) -> list[int]:
    """Who got a place, in order, while places come back one by one."""
    order: list[int] = []
    while len(order) < len(tasks):
        admission.release_slot()
        await settle()
        order += [i for i, task in enumerate(tasks) if task.done() and i not in order]
    return order


async def test_sessions_take_turns_and_within_one_the_first_comes_first() -> None:
    admission = await full()
    tasks = await in_line(admission, "noisy", "noisy", "noisy", "calm", "noisy", "calm")
    assert await turns(admission, tasks) == [0, 3, 1, 5, 2, 4]


async def test_each_stranger_is_a_session_of_its_own() -> None:
    admission = await full()
    tasks = await in_line(admission, "noisy", "noisy", "", "noisy", "")
    assert await turns(admission, tasks) == [0, 2, 4, 1, 3]


async def test_a_full_line_takes_one_of_less_and_refuses_the_last_of_the_session_with_most() -> (
    None
):
    admission = await full(max_queue=3)
    noisy = await in_line(admission, "noisy", "noisy", "noisy")
    (calm,) = await in_line(admission, "calm")
    assert [task.done() for task in noisy] == [False, False, True]
    with pytest.raises(QueueFull):
        noisy[2].result()
    assert not calm.done()
    with pytest.raises(QueueFull):
        await soon(admission.take_slot("noisy"))
    (stranger,) = await in_line(admission, "")
    assert [task.done() for task in noisy] == [False, True, True]
    with pytest.raises(QueueFull):
        await soon(admission.take_slot())  # no session has more than this one would have
    with pytest.raises(QueueFull):
        noisy[1].result()
    assert await turns(admission, [noisy[0], calm, stranger]) == [0, 1, 2]


async def test_a_flood_of_one_key_neither_delays_nor_displaces_another_key() -> None:
    """The flood names no session, or a new one each time: that is its own word only."""
    admission = await full(max_queue=40)
    flood = [
        asyncio.create_task(admission.take_slot(f"s{number}" if number % 2 else "", "flood"))
        for number in range(40)
    ]
    await settle()
    calm = [asyncio.create_task(admission.take_slot("", "calm")) for _ in range(20)]
    await settle()
    assert admission.queued == 40
    for task in flood[20:]:
        assert isinstance(task.exception(), QueueFull)
    order = await turns(admission, [*flood[:20], *calm])
    assert [place >= 20 for place in order] == [False, True] * 20


async def test_more_places_are_given_to_those_who_wait() -> None:
    admission = await full(places=1)
    tasks = await waiting(admission, 3)
    admission.resize(3, 0)
    await settle()
    assert [task.done() for task in tasks] == [True, True, False]
    assert (admission.running, admission.queued) == (3, 1)


async def test_fewer_places_are_given_back_before_anybody_gets_one() -> None:
    admission = await full(places=3)
    tasks = await waiting(admission, 1)
    admission.resize(1, 8)
    for _ in range(2):
        admission.release_slot()
    await settle()
    assert (admission.running, tasks[0].done()) == (1, False)
    admission.release_slot()
    await soon(tasks[0])
    assert admission.running == 1


# --- when to come back ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "places", "durations", "seconds"),
    [
        (0, 1, [], 1.0),
        (0, 1, [10.0], 10.0),
        (3, 2, [10.0, 20.0], 30.0),
        (3, 32, [1.0], 1.0),
        (64, 1, [600.0], 120.0),
    ],
)
def test_come_back_when_all_who_wait_have_had_their_turn(
    waiting: int, places: int, durations: list[float], seconds: float
) -> None:
    assert estimated_wait(waiting, places, deque(durations)) == seconds


async def test_a_refusal_goes_by_how_long_requests_took_of_late() -> None:
    admission = await full(places=2, max_queue=0)
    admission.release_slot(took=30.0)
    await soon(admission.take_slot())
    with pytest.raises(QueueFull) as refused:
        await soon(admission.take_slot())
    assert refused.value.retry_after == 15.0


# --- any order of anything ----------------------------------------------------------------

ACTS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 2)),
    st.just(("leave", 0)),
    st.tuples(st.just("cancel"), st.integers(0, 7)),
    st.just(("tick", 0)),
)


class Crowd:
    """Callers that come, wait, leave the line and leave their places, as told."""

    def __init__(self, places: int, max_queue: int) -> None:
        self.admission = Admission("nano", places, max_queue)
        self.places = places
        self.max_queue = max_queue
        self.callers: list[asyncio.Task[None]] = []
        self.gone = 0

    def inside(self) -> int:
        entered = [caller for caller in self.callers if caller.done() and not caller.cancelled()]
        return sum(task.exception() is None for task in entered) - self.gone

    async def act(self, act: str, who: int) -> None:
        match act:
            case "arrive":
                session = ("", "a", "b")[who % 3]
                entering = self.admission.take_slot(session, f"key {len(self.callers) % 2}")
                self.callers.append(asyncio.create_task(entering))
            case "leave" if self.inside():
                self.gone += 1
                self.admission.release_slot()
            case "cancel" if pending := [caller for caller in self.callers if not caller.done()]:
                pending[who % len(pending)].cancel()
            case "tick":
                await asyncio.sleep(0)
            case _:
                pass
        assert self.inside() <= self.admission.running <= self.places
        assert self.admission.queued <= self.max_queue

    async def go_home(self) -> None:
        await settle()
        while self.inside():
            await self.act("leave", 0)
            await settle()

    def check_that_no_request_was_lost(self) -> None:
        assert all(caller.done() for caller in self.callers)
        ended_as_they_should = [
            caller.cancelled()
            or caller.exception() is None
            or isinstance(caller.exception(), QueueFull)
            for caller in self.callers
        ]
        assert all(ended_as_they_should)
        assert (self.admission.running, self.admission.queued) == (0, 0)


@settings(derandomize=True, max_examples=rounds(75, 300, 300))
@given(
    places=st.integers(1, 3),
    max_queue=st.integers(0, 4),
    acts=st.lists(ACTS, min_size=10, max_size=40),
)
def test_no_order_of_coming_and_going_loses_a_place_or_a_caller(
    places: int, max_queue: int, acts: Sequence[tuple[str, int]]
) -> None:
    async def scene() -> None:
        crowd = Crowd(places, max_queue)
        for act, who in acts:
            await crowd.act(act, who)
        await crowd.go_home()
        crowd.check_that_no_request_was_lost()

    asyncio.run(scene())


async def test_admission_peak_is_the_most_since_its_reset() -> None:
    admission = await full(3)
    for _ in range(2):
        admission.release_slot()
    assert (admission.running, admission.peak) == (1, 3)
    admission.reset_peak()
    assert admission.peak == 1
