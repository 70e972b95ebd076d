"""Memory holds: models leave for each other, wait or are refused; caches and processes give way."""

import asyncio
from dataclasses import replace

import pytest

from mlx_worker.errors import MemoryFull, ModelTooLarge
from mlx_worker.supervisor.event_log import EventLog
from mlx_worker.supervisor.memory.budget import MemoryBudget
from mlx_worker.supervisor.memory.policy import PROCESS_BYTES, PressureLevel
from mlx_worker.supervisor.memory.pressure import Pressure
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.launch.launcher import Launcher
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.generation import Generation
from tests.supervisor_harness import (
    NOWHERE,
    PATIENT,
    QUICK,
    Fifo,
    chat,
    eventually,
    planned,
    ready,
    running,
    scripted,
    soon,
    whole_text,
)

WAITS = replace(PATIENT, load_wait=60)
MB = 1 << 20
ONE = PROCESS_BYTES + MB
"""What a scripted model is expected to take."""


async def ask(node: Node, model: str, text: str) -> Generation:
    return await soon(node.client.generate(node.named(model), chat(text)))


async def said(node: Node, model: str, text: str = "hello") -> str:
    return await whole_text(await ask(node, model, text))


def of_size(*flags: str) -> Launcher:
    return scripted("--resident", str(ONE), *flags)


# --- models ---------------------------------------------------------------------------------


async def test_models_that_do_not_fit_together_are_used_in_turn() -> None:
    models = [planned("a"), planned("b"), planned("c")]
    limit = 2 * ONE
    async with running(*models, launcher=of_size(), resume=WAITS, memory_limit=limit) as node:
        for turn in range(12):
            assert await said(node, "abc"[turn % 3], f"turn {turn}") == f"turn {turn}"
            assert node.pressure.used <= limit
            assert sum(model.child.status.pid is not None for model in node.models.values()) <= 2


async def test_the_least_recently_used_leaves() -> None:
    models = [planned("a"), planned("b"), planned("c", preload=False)]
    async with running(*models, launcher=of_size(), resume=WAITS, memory_limit=2 * ONE) as node:
        await ready(node)
        await said(node, "b")
        await said(node, "a")
        await said(node, "c")
        states = {id_: runtime.child.state for id_, runtime in node.models.items()}
        assert states == {"a": State.READY, "b": State.STOPPED, "c": State.READY}


async def test_a_model_waits_for_one_at_work_to_come_to_its_end(pace: Fifo) -> None:
    launcher = of_size("--pace", str(pace.path))
    models = [planned("a"), planned("b", preload=False)]
    async with running(*models, launcher=launcher, resume=WAITS, memory_limit=ONE) as node:
        await ready(node)
        first = await ask(node, "a", "one two")
        second = await ask(node, "b", "three")
        assert isinstance(node.named("b").start_blocked_by, MemoryFull)
        pace.let(2)
        assert await whole_text(first) == "one two"
        await soon(node.named("b").child.reached(State.READY))
        pace.let(1)
        assert await whole_text(second) == "three"


async def test_beside_a_pinned_model_there_is_no_room_and_the_refusal_has_the_numbers() -> None:
    models = [planned("a", pin=True), planned("b", preload=False)]
    async with running(*models, launcher=of_size(), memory_limit=ONE) as node:
        await ready(node)
        with pytest.raises(MemoryFull, match=r"MB of .* MB; a takes .* \(pinned\)") as refused:
            await ask(node, "b", "hello")
        assert refused.value.retry_after
        assert await said(node, "a") == "hello"


async def test_who_waited_for_room_in_vain_hears_the_numbers() -> None:
    models = [planned("a", pin=True), planned("b", preload=False)]
    resume = replace(PATIENT, load_wait=0.05)
    async with running(*models, launcher=of_size(), memory_limit=ONE, resume=resume) as node:
        await ready(node)
        generation = await ask(node, "b", "hello")
        with pytest.raises(MemoryFull, match="does not fit in memory"):
            await soon(generation.started())


async def test_a_model_that_never_fits_is_refused_for_good_and_nobody_leaves_for_it() -> None:
    models = [planned("a"), planned("large", weights=2 * ONE, preload=False)]
    async with running(*models, launcher=of_size(), memory_limit=2 * ONE - 1) as node:
        await ready(node)
        with pytest.raises(ModelTooLarge, match="memory_limit") as refused:
            await ask(node, "large", "hello")
        assert refused.value.retry_after is None
        assert node.named("a").child.state is State.READY


async def test_preloaded_models_start_as_far_as_they_fit_and_the_pinned_first() -> None:
    models = [planned("a"), planned("b"), planned("c", pin=True)]
    async with running(*models, launcher=of_size(), memory_limit=2 * ONE) as node:
        await soon(node.named("c").child.reached(State.READY))
        await soon(node.named("a").child.reached(State.READY))
        assert node.named("b").child.state is State.STOPPED


async def test_warming_waits_for_room_too(pace: Fifo) -> None:
    launcher = of_size("--pace", str(pace.path))
    models = [planned("a"), planned("b", preload=False)]
    async with running(*models, launcher=launcher, memory_limit=ONE) as node:
        await ready(node)
        first = await ask(node, "a", "one")
        warming = asyncio.create_task(node.client.warm(node.named("b"), "be kind"))
        await asyncio.sleep(0)
        pace.let(1)
        assert await whole_text(first) == "one"
        assert (await soon(warming)).tokens == 2


async def test_a_model_that_was_given_up_needs_room_to_be_restarted() -> None:
    models = [planned("a", pin=True), planned("b", preload=False)]
    async with running(*models, launcher=of_size(), memory_limit=ONE) as node:
        await ready(node)
        with pytest.raises(MemoryFull):
            node.restart(node.named("b"))


@pytest.mark.parametrize("flags", [[], ["--ignore-eof"]], ids=["at-once", "in-its-own-time"])
@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_a_node_that_stops_starts_no_model_that_waits_for_memory(
    order: str, flags: list[str]
) -> None:
    """Model a, evicted for model b, may end before the node asks for its end, or after that."""
    models = [planned(id_, preload=id_ == "a") for id_ in order]
    timings = replace(QUICK, stop=0.2)
    launcher = of_size(*flags)
    async with running(*models, launcher=launcher, memory_limit=ONE, timings=timings) as node:
        await ready(node)
        b = node.named("b")
        node.load(b)
        assert node.placement.is_reserved(b)
        await soon(node.stop())
        assert b.child.state is State.STOPPED
        assert b.child.lifecycle.incarnation == 0


async def test_a_model_that_a_reload_removed_waits_for_memory_no_more() -> None:
    a, b = planned("a"), planned("b", preload=False)
    launcher = of_size("--ignore-eof")  # a takes its time to leave
    timings = replace(QUICK, stop=0.2)
    async with running(a, b, launcher=launcher, memory_limit=ONE, timings=timings) as node:
        await ready(node)
        removed = node.named("b")
        node.load(removed)
        assert node.placement.is_reserved(removed)
        node.reload([a], NOWHERE)

        async def retired() -> bool:
            return removed not in node._retiring

        await eventually(retired)
        assert not node.placement.is_reserved(removed)


# --- pressure -------------------------------------------------------------------------------


async def reaches(node: Node, rung: PressureLevel) -> None:
    async def so() -> bool:
        return node.pressure.level is rung

    await eventually(so)


async def test_under_pressure_caches_are_trimmed_and_nothing_is_refused() -> None:
    launcher = of_size("--grow", str(8 * MB))
    async with running(planned("a"), launcher=launcher, memory_limit=ONE + 10 * MB) as node:
        await ready(node)
        for _ in range(6):
            assert await said(node, "a") == "hello"
            await reaches(node, PressureLevel.CALM)
        assert node.named("a").child.lifecycle.restarts == 0


async def test_a_process_that_grew_and_does_not_shrink_is_recycled_after_new_work_was_refused() -> (
    None
):
    launcher = of_size("--grow", str(8 * MB), "--never-shrink")
    async with running(planned("a"), launcher=launcher, memory_limit=ONE + 10 * MB) as node:
        await ready(node)
        await said(node, "a")
        await said(node, "a")
        await reaches(node, PressureLevel.REFUSE)
        with pytest.raises(MemoryFull, match="MB of") as refused:
            await ask(node, "a", "too much")
        assert refused.value.retry_after
        await reaches(node, PressureLevel.CALM)
        await ready(node)
        assert node.named("a").child.lifecycle.restarts == 1
        assert await said(node, "a") == "hello"
        steps = [
            event.facts["what"] for _, event in node.events.after(0) if event.kind == "pressure"
        ]
    words = ["evicted", "refused", "has to end", "fresh process", "accepted"]
    assert [word for line, word in zip(steps, words, strict=True) if word in line] == words


async def test_a_recycled_process_finishes_what_it_has_first(pace: Fifo) -> None:
    launcher = of_size("--grow", str(8 * MB), "--never-shrink", "--pace", str(pace.path))
    timings = replace(QUICK, drain=3600)
    limit = ONE + 4 * MB
    model = planned("a")
    async with running(model, launcher=launcher, memory_limit=limit, timings=timings) as node:
        await ready(node)
        generation = await ask(node, "a", "one two three")
        await soon(node.named("a").child.reached(State.DRAINING))
        pace.let(3)
        assert await whole_text(generation) == "one two three"
        await soon(node.named("a").child.reached(State.STARTING, State.LOADING, State.READY))
        assert node.named("a").dispatcher.log.resumes == 0


async def test_processes_larger_than_expected_make_room_by_what_was_measured() -> None:
    """One request each to many models, one after the other: none is refused."""
    models = [planned(f"m{number}", preload=False) for number in range(8)]
    launcher = scripted("--resident", str(2 * ONE))
    async with running(*models, launcher=launcher, resume=WAITS, memory_limit=5 * ONE) as node:
        for number in range(8):
            assert await said(node, f"m{number}") == "hello"
            await eventually(lambda: measured(node))
            assert node.pressure.level is PressureLevel.CALM


async def measured(node: Node) -> bool:
    up = [model for model in node.models.values() if model.child.state is State.READY]
    return all(runtime.at_start is not None for runtime in up)


async def test_over_the_limit_idle_models_leave_and_a_request_waits_for_that() -> None:
    """All start at once, so that none could be corrected by another."""
    models = [planned(f"m{number}") for number in range(4)]
    launcher = scripted("--resident", str(2 * ONE))
    async with running(*models, launcher=launcher, resume=WAITS, memory_limit=4 * ONE) as node:
        await ready(node)
        for number in range(4):
            assert await said(node, f"m{number}") == "hello"


async def test_a_process_that_has_ended_is_no_reason_to_refuse_work() -> None:
    """Its memory is free at once; the ladder hears of that at the next look."""
    events = EventLog()
    pressure = Pressure(MemoryBudget(100, events), list, events)
    pressure._escalation.level = PressureLevel.RECYCLE
    assert pressure.refusal() is None


async def test_a_given_up_model_whose_room_is_lost_again_is_tried_again_later() -> None:
    models = [planned("a"), planned("b", preload=False)]
    async with running(*models, launcher=of_size(), memory_limit=ONE) as node:
        await ready(node)
        a, b = node.named("a"), node.named("b")
        b.child.cannot_start("its folder is gone")
        await soon(b.child.reached(State.FAILED))
        node.placement.ensure_started(b)
        assert node.placement.is_reserved(b)
        with a.in_use():  # before it has left
            node.placement.retry_waiting()
            node.placement.retry_waiting()

        async def told() -> bool:
            return "does not fit in memory" in b.child.reason

        await eventually(told)
        assert b.child.state is State.FAILED


async def test_an_eviction_is_one_event() -> None:
    models = [planned("a"), planned("b", preload=False)]
    async with running(*models, launcher=of_size(), resume=WAITS, memory_limit=ONE) as node:
        await ready(node)
        assert await said(node, "b") == "hello"
        assert await said(node, "a") == "hello"
        evicted = [
            (event.model, event.facts) for _, event in node.events.after(0) if event.kind == "evict"
        ]
        assert evicted == [("a", {"by": "b"}), ("b", {"by": "a"})]
