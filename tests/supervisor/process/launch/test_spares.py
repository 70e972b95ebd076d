"""Spare children with real processes: who gets them, what becomes of them."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import psutil
import pytest

from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.connection import ConnectionCallbacks
from mlx_worker.supervisor.process.launch.launcher import Launched, Launcher, ProcessLauncher
from mlx_worker.supervisor.process.launch.spares import SparePool, StandbyPolicy
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.process.restart_policy import RestartPolicy, RestartWindow
from mlx_worker.supervisor.process.states import State
from tests.supervisor_harness import (
    AT_ONCE,
    DEADLINE,
    NOT_READY,
    Fifo,
    alive,
    chat,
    eventually,
    kill_worker,
    planned,
    ready,
    running,
    scripted,
    scripted_process,
    soon,
    started_workers,
    text_of,
)

ONE = StandbyPolicy(spares=1, calm=0, ping=0.02, silence=DEADLINE, start=DEADLINE, stop=2)
FAULTS = {
    "killed": signal.SIGKILL,
    "exit": signal.SIGUSR2,
    "garbage": signal.SIGUSR1,
    "hang": signal.SIGSTOP,
}
NOBODY = ConnectionCallbacks(lambda _: None, lambda *_: None, lambda: None, lambda _: None)


async def spares(standby: SparePool, count: int, but: Sequence[int] = ()) -> list[int]:
    """Wait until so many are there, none of them of these."""

    async def there() -> bool:
        return len([pid for pid in standby.waiting if pid not in but]) == count

    await eventually(there)
    return standby.waiting


async def gone(pid: int) -> None:
    async def ended() -> bool:
        return not alive(pid)

    await eventually(ended)


@asynccontextmanager
async def standby_of(
    launcher: Launcher,
    policy: StandbyPolicy = ONE,
    deaths: RestartPolicy = AT_ONCE,
    busy: Callable[[], bool] = lambda: False,
) -> AsyncIterator[SparePool]:
    pause = PauseDetector(asyncio.get_running_loop(), policy.ping)
    standby = SparePool(launcher, policy, RestartWindow(deaths, Random(1)), busy, pause)
    try:
        yield standby
    finally:
        await soon(standby.close())
        pause.close()


# --- taking -------------------------------------------------------------------------------


@pytest.mark.process
async def test_a_child_that_died_comes_back_in_the_spare_and_another_spare_is_prepared() -> None:
    async with running(launcher=scripted_process(), standby=ONE) as node:
        await ready(node)
        child = node.primary.child
        (spare,) = await spares(node.spare_pool, 1)
        first = child.status.pid
        assert first not in (None, spare)
        kill_worker(first)
        await soon(child.reached(*NOT_READY))
        await soon(child.reached(State.READY))
        assert child.status.pid == spare
        assert child.status.versions == {"scripted": "1"}
        assert (child.lifecycle.restarts, alive(first)) == (1, False)
        assert await said(node, "from the spare") == "from the spare"
        await spares(node.spare_pool, 1, but=[spare])


async def ended(launched: Launched) -> None:
    """End a process that a test was given, and wait for all that is left of it."""
    launched.connection.close()
    await soon(launched.process.wait())
    await launched.stderr_tail.complete(DEADLINE)


async def said(node: Node, text: str) -> str:
    generation = await node.client.generate(node.primary, chat(text))
    heard = ""
    while piece := await text_of(generation):
        heard += piece
    return heard


async def test_a_model_on_demand_takes_the_spare() -> None:
    async with running(planned(preload=False), launcher=scripted(), standby=ONE) as node:
        (spare,) = await spares(node.spare_pool, 1)
        node.primary.child.start()
        await soon(node.primary.child.reached(State.READY))
        assert node.primary.child.status.pid == spare


@pytest.mark.process
async def test_a_model_with_variables_of_its_own_takes_no_spare() -> None:
    demanding = planned("b", preload=False, env={"SHADE": "blue"})
    async with running(planned("a"), demanding, launcher=scripted_process(), standby=ONE) as node:
        (spare,) = await spares(node.spare_pool, 1)
        child = node.named("b").child
        node.load(node.named("b"))
        await soon(child.reached(State.READY))
        assert child.status.pid != spare
        assert psutil.Process(child.status.pid).environ()["SHADE"] == "blue"
        assert alive(spare), "it waits for another model"


async def test_what_becomes_of_a_taken_spare_is_its_childs() -> None:
    async with running(planned(preload=False), launcher=scripted(), standby=ONE) as node:
        (spare,) = await spares(node.spare_pool, 1)
        child = node.primary.child
        child.start()
        await soon(child.reached(State.READY))
        kill_worker(spare, signal.SIGUSR2)
        await soon(child.reached(*NOT_READY))
        await soon(child.reached(State.READY))
        assert child.last_exit is not None
        assert child.last_exit.how == "exit status 3"


async def test_a_spare_that_is_still_importing_is_taken_too(hold: Fifo) -> None:
    launcher = scripted("--hold-hello", hold.path)
    async with running(planned(preload=False), launcher=launcher, standby=ONE) as node:

        async def launched() -> bool:
            return any(spare.pid for spare in node.spare_pool._spares)

        await eventually(launched)
        (importing,) = started_workers()
        assert node.spare_pool.waiting == []
        child = node.primary.child
        child.start()
        await soon(child.reached(State.STARTING))
        assert child.status.pid == importing
        hold.let(2)
        await soon(child.reached(State.READY))


async def test_without_a_spare_a_child_starts_as_ever() -> None:
    async with running(launcher=scripted(), standby=replace(ONE, calm=3600)) as node:
        await ready(node)
        assert (node.spare_pool.wanted, node.spare_pool.waiting) == (1, [])


async def test_two_models_that_die_together_take_two_spares() -> None:
    two = replace(ONE, spares=2)
    async with running(planned("a"), planned("b"), launcher=scripted(), standby=two) as node:
        await ready(node)
        waiting = await spares(node.spare_pool, 2)
        children = [served.child for served in node.models.values()]
        for child in children:
            kill_worker(child.status.pid)
        await asyncio.gather(*(soon(child.reached(*NOT_READY)) for child in children))
        await asyncio.gather(*(soon(child.reached(State.READY)) for child in children))
        assert {child.status.pid for child in children} == set(waiting)


# --- preparing ----------------------------------------------------------------------------


async def test_no_spare_is_prepared_beside_a_model_that_comes_up() -> None:
    asked: list[int] = []

    def busy() -> bool:
        asked.append(len(started_workers()))
        return len(asked) < 5

    async with standby_of(scripted(), busy=busy) as standby:
        await spares(standby, 1)
        assert asked == [0] * 5


async def test_a_change_of_state_puts_the_preparing_off() -> None:
    looked = 0

    async with standby_of(scripted(), replace(ONE, calm=0.5)) as standby:

        async def stirred() -> bool:
            nonlocal looked
            looked += 1
            standby.on_state_change()
            return looked > 100

        await eventually(stirred)
        assert started_workers() == []
        await spares(standby, 1)


@pytest.mark.process
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_spare_that_breaks_is_replaced_and_given_to_nobody(fault: str) -> None:
    async with standby_of(scripted_process(), replace(ONE, silence=1)) as standby:
        (broken,) = await spares(standby, 1)
        kill_worker(broken, FAULTS[fault])
        await spares(standby, 1, but=[broken])
        await gone(broken)
        launched = await soon(standby.launch(NOBODY))
        assert launched.process.pid != broken
        assert launched.hello is not None
        await ended(launched)


async def test_a_hung_spare_is_passed_over_before_it_is_given_up() -> None:
    async with standby_of(scripted()) as standby:
        (hung,) = await spares(standby, 1)
        kill_worker(hung, signal.SIGSTOP)

        async def doubted() -> bool:
            return standby.waiting == []

        await eventually(doubted)
        assert alive(hung)
        launched = await soon(standby.launch(NOBODY))
        assert launched.process.pid != hung
        await ended(launched)


async def test_a_spare_without_its_hello_in_time_is_replaced(tmp_path: Path) -> None:
    launcher = scripted("--no-hello", "--once", tmp_path / "once")
    async with standby_of(launcher, replace(ONE, start=1.0)) as standby:
        await spares(standby, 1)
        assert (tmp_path / "once").exists()


async def test_spares_that_die_again_and_again_are_seldom_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "mlx_worker.supervisor.process.launch.spares")
    launcher = scripted("--exit-before-hello", "3")
    deaths = RestartPolicy(base=0.01, ceiling=0.01, intensity=2, period=600)
    async with standby_of(launcher, deaths=deaths):

        async def given_pause() -> bool:
            return "600.0 s" in caplog.text

        await eventually(given_pause)
        assert caplog.text.count("a spare child: exit status 3; the next one in") == 3


@pytest.mark.process
async def test_a_command_that_cannot_be_run_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with standby_of(ProcessLauncher(["/nowhere/python"])):

        async def warned() -> bool:
            return "a spare child: cannot start /nowhere/python" in caplog.text

        await eventually(warned)


# --- the end ------------------------------------------------------------------------------


@pytest.mark.process
async def test_spares_end_with_the_node() -> None:
    async with running(launcher=scripted_process(), standby=ONE) as node:
        await ready(node)
        (spare,) = await spares(node.spare_pool, 1)
    assert not alive(spare)
    assert started_workers() == []


async def test_a_spare_that_stays_when_its_pipe_closes_is_killed() -> None:
    policy = replace(ONE, stop=0.1)
    async with standby_of(scripted("--ignore-eof"), policy) as standby:
        (stubborn,) = await spares(standby, 1)
    await gone(stubborn)


@pytest.mark.process
@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_spare_that_is_being_started_at_the_end_is_ended_too(turns: int) -> None:
    async with standby_of(scripted_process()):
        for _ in range(turns):
            await asyncio.sleep(0)
    assert started_workers() == []


@pytest.mark.process
@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_launch_that_is_cancelled_leaves_no_pipe_open(turns: int) -> None:
    await ended(await scripted_process()(NOBODY))  # the loop's own files are there from now on
    for _ in range(3):
        await asyncio.sleep(0)
    before, others = psutil.Process().num_fds(), set(psutil.Process().children())
    starting = asyncio.create_task(scripted_process()(NOBODY))
    for _ in range(turns):
        await asyncio.sleep(0)
    if not starting.done():
        starting.cancel()
    try:
        launched = await starting
    except asyncio.CancelledError:
        pass
    else:
        await ended(launched)

    async def closed() -> bool:
        me = psutil.Process()
        return me.num_fds() <= before and set(me.children()) <= others

    await eventually(closed)
    for _ in range(3):  # what the loop still has to say of the process that it killed
        await asyncio.sleep(0)
