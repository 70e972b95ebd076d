"""What may be asked of a model, and what asking does to it."""

import asyncio
import dataclasses
import itertools

import pytest

from mlx_worker.errors import ModelLoading
from mlx_worker.supervisor.client import ModelClient
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.process.states import State
from tests.loop_clock import LoopClock
from tests.supervisor_harness import (
    PATIENT,
    Fifo,
    chat,
    planned,
    ready,
    running,
    scripted,
    soon,
    whole_text,
)


async def test_refusal_for_an_unloaded_model_starts_nothing() -> None:
    async with running(planned(preload=False), launcher=scripted()) as node:
        refusal = node.client.refusal_for(node.primary, until=0.0)
        assert isinstance(refusal, ModelLoading)
        assert not node.primary.child.coming_back
        assert node.primary.child.state is State.STOPPED


async def test_ensure_started_starts_an_unloaded_model() -> None:
    async with running(planned(preload=False), launcher=scripted()) as node:
        node.client.ensure_started(node.primary)
        assert node.primary.child.coming_back
        await soon(node.primary.child.reached(State.READY))
        assert node.client.refusal_for(node.primary, until=0.0) is None


async def test_load_wait_does_not_count_a_pause(hold: Fifo) -> None:
    async with running(planned(), launcher=scripted("--hold-load", hold.path)) as node:
        await soon(node.primary.child.reached(State.LOADING))
        clock = LoopClock(asyncio.get_running_loop().time())
        pause = PauseDetector(clock, 1.0)
        client = ModelClient(
            starter=node.starter,
            pressure=node.pressure,
            drain=node.drain,
            resume=dataclasses.replace(PATIENT, load_wait=-1.0),  # over before it begins
            ids=itertools.count(1),
            pause=pause,
            background=node._background,
        )
        with pytest.raises(ModelLoading):
            await client.generate(node.primary, chat("one"))
        clock.stop(3600)
        generation = await client.generate(node.primary, chat("one"))
        hold.let(1)
        assert await whole_text(generation) == "one"


async def test_status_stays_as_it_was_taken() -> None:
    async with running(planned(), launcher=scripted()) as node:
        await ready(node)
        status = node.primary.status()
        node.primary.child.unload()
        await soon(node.primary.child.reached(State.STOPPED))
        assert (status.state, node.primary.status().state) == (State.READY, State.STOPPED)
        assert State.STOPPED not in status.entered_at
        with pytest.raises(dataclasses.FrozenInstanceError):
            status.running = 1  # type: ignore[misc]
