"""A model that nobody needs ends, and comes back for whoever needs it, at whatever moment."""

import asyncio
from dataclasses import replace
from functools import partial

from mlx_worker.supervisor.memory.idle import IdleTimer
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.generation import Generation
from tests.loop_clock import LoopClock
from tests.supervisor_harness import (
    PATIENT,
    QUICK,
    Fifo,
    alive,
    chat,
    planned,
    ready,
    running,
    scripted,
    soon,
    started_workers,
    whole_text,
)

WAITS = replace(PATIENT, load_wait=60)
IDLE = partial(planned, idle_timeout=0.05)


async def ask(node: Node, text: str) -> Generation:
    return await soon(node.client.generate(node.primary, chat(text)))


async def test_an_idle_model_is_unloaded_and_its_process_is_gone() -> None:
    async with running(IDLE(), launcher=scripted()) as node:
        await ready(node)
        pid = node.primary.child.status.pid
        await soon(node.primary.child.reached(State.STOPPED))
        assert not alive(pid)
        assert started_workers() == []


def test_a_model_is_not_unloaded_for_a_time_in_which_the_machine_slept() -> None:
    clock = LoopClock()
    unloaded: list[float] = []
    timer = IdleTimer(600, lambda: unloaded.append(clock.now), PauseDetector(clock, 1.0))
    timer.used()
    clock.run(300)
    clock.stop(8 * 3600)
    clock.run(599)
    assert unloaded == []
    clock.run(2)
    assert len(unloaded) == 1


async def test_the_next_request_brings_it_back() -> None:
    async with running(IDLE(), launcher=scripted(), resume=WAITS) as node:
        for _ in range(3):
            assert await whole_text(await ask(node, "here again")) == "here again"
            await soon(node.primary.child.reached(State.STOPPED))


async def test_work_that_outlasts_the_timer_is_not_cut_off(pace: Fifo) -> None:
    async with running(IDLE(), launcher=scripted("--pace", pace.path), resume=WAITS) as node:
        await ready(node)
        generation = await ask(node, "one two")
        await soon(generation.started())
        looked = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, looked.set)
        await soon(looked.wait())
        assert node.primary.child.state is State.READY
        pace.let(2)
        assert await whole_text(generation) == "one two"
        await soon(node.primary.child.reached(State.STOPPED))


async def test_a_request_just_before_the_unloading_keeps_the_model() -> None:
    async with running(launcher=scripted(), resume=WAITS) as node:
        await ready(node)
        node.primary.child.unload()
        generation = await ask(node, "still here")
        assert await whole_text(generation) == "still here"
        assert node.primary.child.lifecycle.restarts == 0


async def test_a_request_while_it_ends_waits_for_the_next_process() -> None:
    async with running(launcher=scripted(), resume=WAITS) as node:
        await ready(node)
        node.primary.child.unload()
        await soon(node.primary.child.reached(State.STOPPING))
        generation = await ask(node, "here again")
        assert await whole_text(generation) == "here again"
        assert node.primary.child.lifecycle.restarts == 1


async def test_unloading_and_asking_as_often_as_one_likes_loses_nothing() -> None:
    async with running(launcher=scripted(), resume=WAITS) as node:
        for turns in range(12):
            await soon(node.primary.child.reached(State.READY))
            node.primary.child.unload()
            for _ in range(turns):
                await asyncio.sleep(0)
            asked = [asyncio.create_task(ask(node, f"word {i}")) for i in range(3)]
            said = [await whole_text(await soon(task)) for task in asked]
            assert said == ["word 0", "word 1", "word 2"]
        assert node.primary.admission.running == 0


async def test_warming_counts_as_use_and_brings_an_unloaded_model_back() -> None:
    async with running(IDLE(), launcher=scripted(), resume=WAITS) as node:
        await ready(node)
        await soon(node.primary.child.reached(State.STOPPED))
        assert (await soon(node.client.warm(node.primary, "be kind"))).tokens == 2
        await soon(node.primary.child.reached(State.STOPPED))


async def test_a_node_stops_while_a_model_is_being_unloaded() -> None:
    timings = replace(QUICK, stop=0.1)
    async with running(launcher=scripted("--ignore-eof"), timings=timings) as node:
        await ready(node)
        node.primary.child.unload()
        await soon(node.primary.child.reached(State.STOPPING))
        await soon(node.stop())
        assert node.primary.child.state is State.STOPPED
