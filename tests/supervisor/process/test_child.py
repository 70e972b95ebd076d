"""One child's life with a real process: what the table promises, seen from outside."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import psutil
import pytest

from mlx_worker.errors import ChildLost, ModelFailed, ModelLoading, NodeDraining, WorkerError
from mlx_worker.supervisor.event_log import EventLog
from mlx_worker.supervisor.process.child import Child
from mlx_worker.supervisor.process.connection import ConnectionCallbacks
from mlx_worker.supervisor.process.launch.launcher import Launched, Launcher, ProcessLauncher
from mlx_worker.supervisor.process.launch.process import NO_VARIABLES
from mlx_worker.supervisor.process.lifecycle import Lifecycle, Timings
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.process.restart_policy import RestartPolicy, RestartWindow
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.generation import Generation
from mlx_worker.wire.messages import (
    PROTOCOL,
    DiskCache,
    Generate,
    Load,
    LoadProgress,
    Pong,
)
from mlx_worker.wire.request import ChatRequest
from tests.supervisor_harness import (
    AT_ONCE,
    NOT_READY,
    QUICK,
    Fifo,
    alive,
    chat,
    eventually,
    kill_worker,
    scripted,
    scripted_process,
    soon,
    text_of,
    whole_text,
)

NEVER = RestartPolicy(intensity=0)
"""The first end is the last: the reason stays to be read."""


class Host:
    """The model of a child that nothing else needs."""

    def __init__(self, on_entered: Callable[[State], None]) -> None:
        self._on_entered = on_entered
        self.is_busy = False
        self.measured: list[int] = []
        self.load = Load(
            model="model",
            path="/nowhere",
            max_concurrency=4,
            context_length=None,
            cache_bytes=1 << 30,
            kv_bytes=1 << 30,
            prefill_pause=0.1,
        )

    def on_state_entered(self, state: State) -> None:
        self._on_entered(state)

    def on_load_progress(self) -> None:
        pass

    def on_measured_at_start(self, nbytes: int) -> None:
        self.measured.append(nbytes)

    def on_retry_due(self) -> None:
        pass

    def take_lost_requests(self) -> list[str]:
        return []


@asynccontextmanager
async def child_of(
    launcher: Launcher,
    *,
    timings: Timings = QUICK,
    policy: RestartPolicy = AT_ONCE,
    on_entered: Callable[[State], None] = lambda _: None,
    host: Host | None = None,
) -> AsyncIterator[Child]:
    """A child that was told to start; in the end its process is gone."""
    child = Child(
        "model",
        host or Host(on_entered),
        Lifecycle(timings, RestartWindow(policy, Random(1))),
        timings,
        launch=launcher,
        pause=PauseDetector(asyncio.get_running_loop(), timings.ping),
        events=EventLog(),
    )
    child.start()
    try:
        yield child
    finally:
        child.stop()
        await soon(child.reached(State.STOPPED))
        await child.close()


class OneChild:
    """An owner that knows this process only: what it loses is lost."""

    def __init__(self, child: Child, id_: int) -> None:
        self._child = child
        self._id = id_

    def process_lost(self, generation: Generation, why: str) -> None:
        generation.fail(ChildLost(why))

    def first_token_after_resume(self, _generation: Generation, _after: float) -> None:
        raise AssertionError("what is lost does not come back")

    def client_disconnected(self, _generation: Generation) -> None:
        self._child.cancel(self._id)

    def abort(self, generation: Generation, error: WorkerError) -> None:
        generation.fail(error)

    def generation_ended(self, _generation: Generation) -> None:
        pass


def ask(child: Child, request: ChatRequest, id_: int = 1) -> Generation:
    generation = Generation(request, "", OneChild(child, id_), keepalive_interval=3600)
    child.open(id_, generation, Generate(id_, request))
    return generation


async def text_before_the_loss(generation: Generation) -> str:
    text = ""
    try:
        while piece := await text_of(generation):
            text += piece
    except ChildLost:
        return text
    raise AssertionError(f"no loss after {text!r}")


# --- coming up ----------------------------------------------------------------------------


async def test_a_child_starts_loads_and_answers() -> None:
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        assert alive(child.status.pid)
        assert child.status.versions == {"scripted": "1"}
        loaded = child.status.loaded
        assert loaded is not None
        assert (loaded.context_length, loaded.weight_bytes) == (4096, 123_456)
        generation = ask(child, chat("the answer is here"))
        assert (await soon(generation.started())).prompt_tokens == 4
        assert await whole_text(generation) == "the answer is here"


async def test_it_is_known_when_it_came_to_each_state() -> None:
    before = time.time() * 1000
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        assert list(child.entered_at) == [State.STARTING, State.LOADING, State.READY]
        times = [before, *child.entered_at.values(), time.time() * 1000]
        assert times == sorted(times)


async def test_every_state_is_announced_in_its_order() -> None:
    announced: list[State] = []
    async with child_of(scripted(), on_entered=announced.append) as child:
        await soon(child.reached(State.READY))
        await killed_and_back(child)
    up = [State.STARTING, State.LOADING, State.READY]
    assert announced[:3] == up
    assert announced[-6:-3] == up  # the pipe's end or the process's may be seen first
    assert announced[-3:] == [State.DRAINING, State.STOPPING, State.STOPPED]


@pytest.mark.process
async def test_it_is_the_leader_of_a_session_so_that_ctrl_c_is_not_its_to_answer() -> None:
    async with child_of(scripted_process()) as child:
        await soon(child.reached(State.READY))
        assert child.status.pid is not None
        assert os.getsid(child.status.pid) == child.status.pid


async def test_pongs_bring_its_counters(pace: Fifo) -> None:
    async with child_of(scripted("--pace", pace.path)) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three"))
        pace.let(1)
        assert await text_of(generation) == "one"

        async def counted() -> bool:
            pong = child.status.pong
            return pong is not None and (pong.active, pong.decode_steps) == (1, 1)

        await eventually(counted)


async def test_while_it_loads_work_is_refused_and_told_to_come_back() -> None:
    async with child_of(scripted("--hang-in-load")) as child:
        await soon(child.reached(State.LOADING))
        with pytest.raises(ModelLoading, match="loading") as refused:
            ask(child, chat("too early"))
        assert refused.value.retry_after == 2


async def test_child_start_behind_an_unload_is_coming_back() -> None:
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        child.unload()
        child.start()
        await soon(child.reached(State.STOPPING))
        assert child.coming_back
        await soon(child.reached(State.READY))


async def test_child_pong_before_loaded_measures_nothing() -> None:
    """The pool may have pinged a spare just before a child took the process."""
    start, taken = scripted(), list[ConnectionCallbacks]()

    async def launch(
        callbacks: ConnectionCallbacks, env: Mapping[str, str] = NO_VARIABLES
    ) -> Launched:
        taken.append(callbacks)
        return await start(callbacks, env)

    def on_entered(state: State) -> None:
        if state is State.LOADING:
            taken[0].on_report(Pong(1, 0, 0, 0, resident_bytes=7, device_bytes=7))

    host = Host(on_entered)
    async with child_of(launch, host=host) as child:
        await soon(child.reached(State.READY))

        async def has_measured() -> bool:
            return bool(host.measured)

        await eventually(has_measured)
        assert 7 not in host.measured


async def test_progress_of_loading_can_be_read(hold: Fifo) -> None:
    async with child_of(scripted("--hold-load", hold.path)) as child:
        await soon(child.reached(State.LOADING))

        async def half() -> bool:
            return child.status.loading == LoadProgress(61_728, 123_456)

        await eventually(half)
        hold.let(1)
        await soon(child.reached(State.READY))


# --- ends that it comes back from -----------------------------------------------------------


async def killed_and_back(child: Child) -> None:
    before = child.status.pid
    assert before is not None
    kill_worker(before)
    async with asyncio.timeout(2):  # seen at once, not at the next ping or request
        await child.reached(*NOT_READY)
    await soon(child.reached(State.READY))
    assert child.status.pid != before
    assert alive(child.status.pid)
    assert not alive(before)


@pytest.mark.process
async def test_killed_from_outside_it_comes_back_as_a_new_process() -> None:
    async with child_of(scripted_process()) as child:
        await soon(child.reached(State.READY))
        assert child.lifecycle.restarts == 0
        await killed_and_back(child)
        assert child.lifecycle.restarts == 1
        assert await whole_text(ask(child, chat("here again"))) == "here again"


async def test_after_a_restart_it_still_says_why_it_was_restarted() -> None:
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        await killed_and_back(child)
        assert "SIGKILL" in child.reason


async def test_restarts_are_counted_one_by_one() -> None:
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        for count in (1, 2, 3):
            await killed_and_back(child)
            assert child.lifecycle.restarts == count


FAULTS_IN_WORK = {
    "--die-after-tokens": "SIGKILL",
    "--abort-after-tokens": "SIGABRT",
    "--exit-after-tokens": "exit status 3",
    "--garbage-after-tokens": "no message",
    "--unknown-id-after-tokens": "not open",
}


@pytest.mark.process
@pytest.mark.parametrize(("flag", "reason"), FAULTS_IN_WORK.items())
async def test_an_end_in_mid_work_gives_what_was_said_then_the_loss_and_its_cause(
    flag: str, reason: str
) -> None:
    async with child_of(scripted_process(flag, "2"), policy=NEVER) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three four"))
        assert await text_before_the_loss(generation) == "one two"
        await soon(child.reached(State.FAILED))
        assert reason in child.reason


@pytest.mark.parametrize("flag", FAULTS_IN_WORK)
async def test_after_an_end_in_mid_work_it_serves_again(flag: str, tmp_path: Path) -> None:
    async with child_of(scripted(flag, "2", "--once", tmp_path / "once")) as child:
        await soon(child.reached(State.READY))
        await text_before_the_loss(ask(child, chat("one two three")))
        await soon(child.reached(*NOT_READY))
        await soon(child.reached(State.READY))
        assert await whole_text(ask(child, chat("one two three"), id_=2)) == "one two three"
        assert child.lifecycle.restarts == 1


@pytest.mark.process
async def test_a_child_that_hangs_with_work_in_hand_is_killed_though_it_pongs() -> None:
    timings = replace(QUICK, stall=1)
    async with child_of(
        scripted_process("--hang-after-tokens", "1"), timings=timings, policy=NEVER
    ) as it:
        await soon(it.reached(State.READY))
        generation = ask(it, chat("one two three"))
        pid = it.status.pid
        assert await text_before_the_loss(generation) == "one"
        await soon(it.reached(State.FAILED))
        assert not alive(pid)
        assert "no progress" in it.reason


async def test_preparing_requests_is_progress_until_it_ends() -> None:
    pings = 60
    flags = scripted("--hang-after-tokens", "1", "--prepare", str(pings))
    timings = replace(QUICK, stall=10 * QUICK.ping)
    async with child_of(flags, timings=timings, policy=NEVER) as it:
        await soon(it.reached(State.READY))
        ask(it, chat("one two three"))
        await soon(it.reached(State.FAILED))
        assert "no progress" in it.reason
        assert it.last_exit is not None
        assert it.last_exit.measured is not None
        assert it.last_exit.measured.seq >= pings


async def test_a_client_that_leaves_a_hung_child_does_not_hide_the_hang() -> None:
    timings = replace(QUICK, stall=0.3)
    async with child_of(scripted("--hang-after-tokens", "1"), timings=timings, policy=NEVER) as it:
        await soon(it.reached(State.READY))
        generation = ask(it, chat("one two three"))
        assert await text_of(generation) == "one"
        generation.cancel()
        await soon(it.reached(State.FAILED))
        assert "no progress" in it.reason


async def test_an_idle_child_is_no_hung_child() -> None:
    async with child_of(scripted(), timings=replace(QUICK, stall=0.05)) as child:
        await soon(child.reached(State.READY))
        pid = child.status.pid

        async def idled_for_many_pings() -> bool:
            return child.status.pong is not None and child.status.pong.seq > 10

        await eventually(idled_for_many_pings)
        assert (child.state, child.status.pid) == (State.READY, pid)


async def test_work_after_a_long_idle_time_has_its_full_patience(pace: Fifo) -> None:
    timings = replace(QUICK, stall=0.2)
    async with child_of(scripted("--pace", pace.path), timings=timings) as child:
        await soon(child.reached(State.READY))

        async def idled() -> bool:
            return child.status.pong is not None and child.status.pong.seq > 12

        await eventually(idled)
        pace.let(2)
        assert await whole_text(ask(child, chat("one two"))) == "one two"
        assert child.lifecycle.restarts == 0


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--no-hello"], "starting"),
        (["--hang-in-load"], "loading"),
    ],
)
async def test_a_child_that_hangs_on_the_way_is_killed_at_the_deadline(
    flags: list[str], reason: str
) -> None:
    timings = replace(QUICK, load=0.2) if reason == "loading" else replace(QUICK, start=0.5)
    async with child_of(scripted_process(*flags), timings=timings, policy=NEVER) as child:
        await soon(child.reached(State.STARTING))
        pid = child.status.pid
        await soon(child.reached(State.FAILED))
        assert not alive(pid)
        assert reason in child.reason


@pytest.mark.process
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--exit-before-hello", "7"], "exit status 7"),
        (["--wrong-protocol"], f"protocol {PROTOCOL + 1}, not {PROTOCOL}"),
        (["--load-failed"], "so it was written"),
    ],
)
async def test_a_child_that_fails_on_the_way_is_tried_again(
    flags: list[str], reason: str, tmp_path: Path
) -> None:
    async with child_of(scripted_process(*flags), policy=NEVER) as child:
        await soon(child.reached(State.FAILED))
        assert reason in child.reason
    async with child_of(scripted_process(*flags, "--once", tmp_path / "once")) as child:
        await soon(child.reached(State.READY))
        assert child.lifecycle.restarts == 1


@pytest.mark.process
async def test_the_last_line_on_stderr_is_part_of_the_reason() -> None:
    """As of an import that fails: nothing else says why no process comes up."""
    failing = [sys.executable, "-c", "raise ValueError('not allowed to raise maximum limit')"]
    async with child_of(ProcessLauncher(failing), policy=NEVER) as child:
        await soon(child.reached(State.FAILED))
        assert child.reason == "exit status 1: ValueError: not allowed to raise maximum limit"


@pytest.mark.parametrize("state", [State.STARTING, State.LOADING, State.READY])
async def test_a_defect_of_the_node_costs_a_process_and_not_the_model(state: State) -> None:
    """Whoever is told of a state may fail; the task that brings the model back may not."""
    failed: list[State] = []

    def fail_once(entered: State) -> None:
        if entered is state and not failed:
            failed.append(entered)
            raise RuntimeError("a defect")

    async with child_of(scripted(), on_entered=fail_once) as child:
        await soon(child.reached(State.BACKOFF))
        assert failed == [state]
        await soon(child.reached(State.READY))


async def test_how_and_when_the_last_process_ended_is_known() -> None:
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        assert child.last_exit is None
        before = time.time() * 1000
        await killed_and_back(child)
        assert child.last_exit is not None
        assert child.last_exit.how == "killed by SIGKILL"
        assert before <= child.last_exit.at <= time.time() * 1000


async def test_a_device_that_fells_process_after_process_is_given_up_and_needs_a_reboot() -> None:
    error = "kIOGPUCommandBufferCallbackErrorTimeout"
    flags = ("--write", f"[METAL] it failed ({error})", "--exit-before-hello", "134")
    policy = replace(AT_ONCE, intensity=1000)
    async with child_of(scripted(*flags), policy=policy) as child:
        await soon(child.reached(State.FAILED))
        assert child.reason == f"needs reboot: {error}, process after process"
        assert child.lifecycle.restarts == 2
        assert child.last_exit is not None
        assert child.last_exit.lines == [f"[METAL] it failed ({error})"]
        child.start()  # somebody has rebooted, or so they say: it has three processes again
        await soon(child.reached(*(state for state in State if state is not State.FAILED)))
        await soon(child.reached(State.FAILED))
        assert child.lifecycle.restarts == 5


# --- restarted by an operator ---------------------------------------------------------------


async def restarted(child: Child) -> None:
    before, pid = child.lifecycle.restarts, child.status.pid
    child.restart()

    async def is_back() -> bool:
        return child.lifecycle.restarts > before and child.state is State.READY

    await eventually(is_back)
    assert child.status.pid != pid
    assert pid is None or not alive(pid)


async def test_a_restart_is_a_new_process() -> None:
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        await restarted(child)
        assert (child.lifecycle.restarts, child.reason) == (1, "")
        assert await whole_text(ask(child, chat("here again"))) == "here again"


async def test_a_child_that_was_given_up_can_be_restarted(tmp_path: Path) -> None:
    async with child_of(scripted("--cannot-load", "--once", tmp_path / "once")) as child:
        await soon(child.reached(State.FAILED))
        await restarted(child)
        assert child.reason == ""


async def test_a_child_that_hangs_in_loading_can_be_restarted(tmp_path: Path) -> None:
    async with child_of(scripted("--hang-in-load", "--once", tmp_path / "once")) as child:
        await soon(child.reached(State.LOADING))
        await restarted(child)


async def test_a_child_that_waits_for_its_restart_is_restarted_at_once(tmp_path: Path) -> None:
    slowly = RestartPolicy(base=3600, ceiling=3600)
    launcher = scripted("--exit-before-hello", "1", "--once", tmp_path / "once")
    async with child_of(launcher, policy=slowly) as child:
        await soon(child.reached(State.BACKOFF))
        await restarted(child)


async def test_a_restart_lets_running_work_finish_first(pace: Fifo) -> None:
    launcher = scripted("--pace", pace.path)
    async with child_of(launcher, timings=replace(QUICK, drain=60)) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three"))
        pace.let(1)
        assert await text_of(generation) == "one"
        child.restart()
        await soon(child.reached(State.DRAINING))
        assert isinstance(child.refusal(), ModelLoading)
        pace.let(2)
        assert await whole_text(generation) == " two three"
        await soon(child.reached(State.READY))
        assert child.lifecycle.restarts == 1


# --- giving up ------------------------------------------------------------------------------


async def test_a_model_that_cannot_be_loaded_is_given_up_at_once() -> None:
    async with child_of(scripted("--cannot-load")) as child:
        await soon(child.reached(State.FAILED))
        assert child.lifecycle.restarts == 0
        assert "so it was written" in child.reason


async def test_after_too_many_ends_it_is_given_up_and_says_why() -> None:
    async with child_of(scripted("--exit-before-hello", "7")) as child:
        await soon(child.reached(State.FAILED))
        assert child.lifecycle.restarts == AT_ONCE.intensity
        assert child.reason == "exit status 7"
        with pytest.raises(ModelFailed, match="exit status 7") as refused:
            ask(child, chat("anybody there?"))
        assert refused.value.retry_after is not None
        assert 1 <= refused.value.retry_after <= AT_ONCE.retry_initial


@pytest.mark.process
async def test_a_command_that_cannot_be_run_is_named_and_never_given_up() -> None:
    async with child_of(ProcessLauncher(["/nowhere/python"]), policy=NEVER) as child:
        await soon(child.reached(State.BACKOFF))
        assert "/nowhere/python" in child.reason
        assert child.recent_ends == (0, 0)


async def test_given_up_it_starts_again_when_it_is_asked_to(tmp_path: Path) -> None:
    launcher = scripted("--cannot-load", "--once", tmp_path / "once")
    async with child_of(launcher) as child:
        await soon(child.reached(State.FAILED))
        child.start()
        await soon(child.reached(State.READY))
        assert child.reason == ""


@pytest.mark.process
async def test_the_late_end_of_a_former_incarnation_does_not_touch_its_successor(
    tmp_path: Path,
) -> None:
    # No patience with KILLING: the child is given up before its process has been seen to end.
    launcher = scripted_process("--garbage-after-tokens", "1", "--once", tmp_path / "once")
    async with child_of(launcher, timings=replace(QUICK, kill=0)) as child:
        await soon(child.reached(State.READY))
        first = child.status.pid
        assert await text_before_the_loss(ask(child, chat("one two"))) == "one"
        await soon(child.reached(State.FAILED, State.BACKOFF, State.STARTING))
        child.start()
        await soon(child.reached(State.READY))
        await eventually(gone(first))
        assert await whole_text(ask(child, chat("still here"), id_=2)) == "still here"
        assert child.lifecycle.restarts == 1


def gone(pid: int | None) -> Callable[[], Awaitable[bool]]:
    async def is_gone() -> bool:
        return pid is not None and not psutil.pid_exists(pid)

    return is_gone


async def test_what_a_dead_process_said_of_itself_is_not_said_of_the_next(hold: Fifo) -> None:
    async with child_of(scripted("--hold-load", hold.path)) as child:
        hold.let(1)
        await soon(child.reached(State.READY))
        assert child.status.loaded is not None
        assert child.status.pid is not None
        kill_worker(child.status.pid)
        await soon(child.reached(State.LOADING))
        assert child.status.loaded is None
        assert child.status.pong is None
        hold.let(1)
        await soon(child.reached(State.READY))


# --- stopping -------------------------------------------------------------------------------


@asynccontextmanager
async def stopped_after(child: Child) -> AsyncIterator[None]:
    """The process that runs now must be gone when the child has STOPPED."""
    pid = child.status.pid
    yield
    await soon(child.reached(State.STOPPED))
    assert not alive(pid)


@pytest.mark.process
async def test_an_idle_child_stops() -> None:
    async with child_of(scripted_process()) as child:
        await soon(child.reached(State.READY))
        async with stopped_after(child):
            child.stop()


async def test_a_child_that_is_still_loading_stops() -> None:
    async with child_of(scripted("--hang-in-load")) as child:
        await soon(child.reached(State.LOADING))
        async with stopped_after(child):
            child.stop()


async def test_a_child_that_has_not_said_hello_stops() -> None:
    async with child_of(scripted("--no-hello")) as child:
        await soon(child.reached(State.STARTING))
        async with stopped_after(child):
            child.stop()


async def test_a_child_that_waits_for_its_restart_stops_at_once() -> None:
    slowly = RestartPolicy(base=3600, ceiling=3600)
    async with child_of(scripted("--exit-before-hello", "1"), policy=slowly) as child:
        await soon(child.reached(State.BACKOFF))
        child.stop()
        await soon(child.reached(State.STOPPED))
        assert child.lifecycle.restarts == 0


async def test_stopping_lets_running_work_finish_and_takes_no_new(pace: Fifo) -> None:
    timings = replace(QUICK, drain=60)
    async with child_of(scripted("--pace", pace.path), timings=timings) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three"))
        pace.let(1)
        assert await text_of(generation) == "one"
        async with stopped_after(child):
            child.stop()
            await soon(child.reached(State.DRAINING))
            assert isinstance(child.refusal(), NodeDraining)
            pace.let(2)
            assert await whole_text(generation) == " two three"


async def test_a_drain_that_takes_too_long_is_cut(pace: Fifo) -> None:
    timings = replace(QUICK, drain=0.1)
    async with child_of(scripted("--pace", pace.path), timings=timings) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three"))
        pace.let(1)
        assert await text_of(generation) == "one"
        async with stopped_after(child):
            child.stop()
            assert await text_before_the_loss(generation) == ""


async def test_a_drain_is_cut_when_it_is_told_to_hurry(pace: Fifo) -> None:
    timings = replace(QUICK, drain=3600)
    async with child_of(scripted("--pace", pace.path), timings=timings) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three"))
        async with stopped_after(child):
            child.stop()
            await soon(child.reached(State.DRAINING))
            child.cut_drain_short()
            assert await text_before_the_loss(generation) == ""


async def test_a_hang_while_draining_is_still_seen_as_one() -> None:
    timings = replace(QUICK, drain=3600, stall=0.3)
    async with child_of(scripted("--hang-after-tokens", "1"), timings=timings) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three"))
        async with stopped_after(child):
            child.stop()
            assert await text_before_the_loss(generation) == "one"


async def test_a_child_killed_while_it_drains_does_not_come_back(pace: Fifo) -> None:
    async with child_of(scripted("--pace", pace.path), timings=replace(QUICK, drain=60)) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three"))
        async with stopped_after(child):
            child.stop()
            await soon(child.reached(State.DRAINING))
            assert child.status.pid is not None
            kill_worker(child.status.pid)
            assert await text_before_the_loss(generation) == ""
        assert child.lifecycle.restarts == 0


@pytest.mark.process
async def test_a_child_that_does_not_leave_at_eof_is_killed_at_the_stop_deadline() -> None:
    async with child_of(
        scripted_process("--ignore-eof"), timings=replace(QUICK, stop=0.2)
    ) as child:
        await soon(child.reached(State.READY))
        async with stopped_after(child):
            child.stop()


# --- leaving, with KV on disk -------------------------------------------------------------


def keeps_kv() -> Host:
    host = Host(lambda _: None)
    disk = DiskCache("/nowhere", 1 << 30, 1 << 30, 0)
    host.load = msgspec.structs.replace(host.load, disk=disk)
    return host


def last_lines(child: Child) -> list[str]:
    assert child.last_exit is not None
    return child.last_exit.lines


async def test_a_child_that_keeps_kv_is_told_to_leave() -> None:
    async with child_of(scripted(), host=keeps_kv()) as child:
        await soon(child.reached(State.READY))
        async with stopped_after(child):
            child.unload()
        assert last_lines(child) == ["leaving"]
        assert child.last_exit is not None
        assert child.last_exit.code == 0


async def test_a_child_that_keeps_no_kv_loses_its_pipe() -> None:
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        async with stopped_after(child):
            child.stop()
        assert last_lines(child) == []


async def test_what_a_leaving_child_still_sends_is_ignored(pace: Fifo) -> None:
    timings = replace(QUICK, drain=3600)
    async with child_of(scripted("--pace", pace.path), timings=timings, host=keeps_kv()) as child:
        await soon(child.reached(State.READY))
        generation = ask(child, chat("one two three"))
        async with stopped_after(child):
            child.stop()
            await soon(child.reached(State.DRAINING))
            child.cut_drain_short()
            assert await text_before_the_loss(generation) == ""
        assert last_lines(child) == ["leaving"]


async def test_a_child_that_does_not_leave_is_killed_at_the_stop_deadline() -> None:
    timings = replace(QUICK, stop=0.2)
    async with child_of(scripted("--ignore-eof"), timings=timings, host=keeps_kv()) as child:
        await soon(child.reached(State.READY))
        async with stopped_after(child):
            child.stop()
        assert last_lines(child) == ["leaving"]


async def test_a_restarted_child_leaves_before_the_next_process(pace: Fifo) -> None:
    async with child_of(scripted("--pace", pace.path), host=keeps_kv()) as child:
        await soon(child.reached(State.READY))
        child.restart()
        await soon(child.reached(State.STOPPING))
        await soon(child.reached(State.READY))
        assert last_lines(child) == ["leaving"]
        assert child.lifecycle.incarnation == 2


async def test_a_stopped_child_can_be_started_again() -> None:
    async with child_of(scripted()) as child:
        await soon(child.reached(State.READY))
        child.stop()
        await soon(child.reached(State.STOPPED))
        child.start()
        await soon(child.reached(State.READY))
        assert await whole_text(ask(child, chat("again"))) == "again"


async def test_whoever_waits_for_a_state_can_give_up_waiting() -> None:
    async with child_of(scripted("--hang-in-load")) as child:
        waiting = asyncio.create_task(child.reached(State.READY))
        await soon(child.reached(State.LOADING))
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert child.state is State.LOADING
