"""Models whose folder is missing, stalled or comes later, and models that were given up."""

import asyncio
import errno
import os
import resource
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mlx_worker.config.schema import ModelConfig
from mlx_worker.errors import BadModelFolder, ModelFailed, ModelLoading, PoisonedRequest
from mlx_worker.models.folder import ModelFolder
from mlx_worker.models.resolve import PlannedModel
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.child import Child
from mlx_worker.supervisor.process.launch.launcher import ProcessLauncher
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.starter import ModelFolderAccess, Starter
from tests.loop_clock import LoopClock
from tests.supervisor_harness import (
    AT_ONCE,
    DEADLINE,
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
    scripted_command,
    scripted_process,
    soon,
    text_of,
)

WATCHFUL = replace(QUICK, inspect=DEADLINE, watch=0.01)
NEVER_AGAIN = replace(AT_ONCE, retry_initial=3600, retry_max=3600)
SLOWLY = RestartPolicy(base=0, ceiling=0, intensity=0, retry_initial=0.02, retry_max=0.02)
LOAD_WAITS = replace(PATIENT, load_wait=DEADLINE)


class Disk:
    """The folders of models: there, missing, or on a share that does not answer."""

    def __init__(self, tmp_path: Path, *, missing: str = "", stalled: str = "") -> None:
        self.missing = {missing} - {""}
        self.stalled = {stalled} - {""}
        self.answers = threading.Event()
        self.inspections: list[str] = []
        self._root = tmp_path
        self._root.mkdir(exist_ok=True)
        self.access = ModelFolderAccess(self._inspect, lambda _: [self._root])

    def mount(self, model_id: str) -> None:
        self.missing.discard(model_id)
        (self._root / model_id).mkdir()  # seen by the signature

    def _inspect(self, config: ModelConfig) -> ModelFolder:
        self.inspections.append(config.id)
        if config.id in self.stalled:
            self.answers.wait()
        if config.id in self.missing:
            raise BadModelFolder(f"{config.id} is not there")
        return planned(config.id, weights=7).inspected


@contextmanager
def disk(tmp_path: Path, *, missing: str = "", stalled: str = "") -> Iterator[Disk]:
    made = Disk(tmp_path / "disk", missing=missing, stalled=stalled)
    yield made
    made.answers.set()  # no thread is left behind by a test


def unseen(model_id: str, *, preload: bool = True) -> PlannedModel:
    return PlannedModel(ModelConfig(id=model_id, path=model_id, preload=preload), None)


async def test_folder_is_not_given_up_for_time_in_which_the_machine_slept(tmp_path: Path) -> None:
    clock, noted = LoopClock(), asyncio.Event()
    with disk(tmp_path, stalled="slow") as made:
        async with running(unseen("slow", preload=False), launcher=scripted()) as node:
            pause, model = PauseDetector(clock, 1.0), node.models["slow"]
            starter = Starter(made.access, node.placement, WATCHFUL, pause, noted.set)
            starter.inspect(model)
            await eventually(lambda: inspected(made, "slow"))
            clock.run(DEADLINE - 1)
            clock.stop(3600)
            await asyncio.sleep(0)
            made.answers.set()
            await soon(noted.wait())
            assert model.child.state is State.STOPPED
            starter.close()


async def inspected(made: Disk, model_id: str) -> bool:
    return model_id in made.inspections


async def reached(node: Node, model_id: str, state: State) -> None:
    await soon(node.named(model_id).child.reached(state))


async def said(node: Node, model_id: str, words: str = "hello") -> str:
    generation = await soon(node.client.generate(node.named(model_id), chat(words)))
    text = ""
    while piece := await text_of(generation):
        text += piece
    return text


async def test_no_folder_is_inspected_before_the_machine_is_prepared(tmp_path: Path) -> None:
    is_prepared = asyncio.Event()
    with disk(tmp_path) as folders:
        async with running(
            unseen("a"),
            launcher=scripted(),
            folders=folders.access,
            prepared=is_prepared.wait,
        ) as node:
            for _ in range(5):
                await asyncio.sleep(0)
            assert isinstance(node.models["a"].start_blocked_by, ModelLoading)
            assert not folders.inspections
            is_prepared.set()
            await reached(node, "a", State.READY)


# --- folders ------------------------------------------------------------------------------


async def test_a_missing_folder_is_one_models_trouble(tmp_path: Path) -> None:
    with disk(tmp_path, missing="a") as folders:
        models = (unseen("a"), unseen("b"))
        async with running(*models, launcher=scripted(), folders=folders.access) as node:
            await reached(node, "a", State.FAILED)
            await reached(node, "b", State.READY)
            assert await said(node, "b") == "hello"
            with pytest.raises(ModelFailed, match="a is not there") as refused:
                await node.client.generate(node.named("a"), chat("hello"))
            child = node.named("a").child
            assert child.lifecycle.next_try is not None
            remaining = child.lifecycle.next_try - asyncio.get_running_loop().time()
            assert refused.value.retry_after == pytest.approx(remaining, abs=1)


@pytest.mark.parametrize("preload", [True, False])
async def test_a_folder_that_appears_is_served_at_once(tmp_path: Path, preload: bool) -> None:
    with disk(tmp_path, missing="a") as folders:
        async with running(
            unseen("a", preload=preload),
            launcher=scripted(),
            folders=folders.access,
            timings=WATCHFUL,
            policy=NEVER_AGAIN,
            resume=LOAD_WAITS,
        ) as node:
            await reached(node, "a", State.FAILED)
            folders.mount("a")
            await reached(node, "a", State.READY if preload else State.STOPPED)
            assert await said(node, "a") == "hello"


async def test_an_unchanged_folder_is_not_read_again_and_again(tmp_path: Path) -> None:
    with disk(tmp_path, missing="a") as folders:
        async with running(
            unseen("a"),
            launcher=scripted(),
            folders=folders.access,
            timings=replace(QUICK, watch=0),
            policy=NEVER_AGAIN,
        ) as node:
            await reached(node, "a", State.FAILED)
            for _ in range(100):
                await asyncio.sleep(0)
            assert folders.inspections == ["a"]


async def test_a_model_is_held_back_until_its_folder_is_known_to_be_unusable(
    tmp_path: Path,
) -> None:
    """No report may take it for a model that waits for its first request."""
    with disk(tmp_path, missing="a") as folders:
        async with running(
            unseen("a", preload=False), launcher=scripted(), folders=folders.access
        ) as node:
            async with asyncio.timeout(DEADLINE):
                while node.primary.child.state is State.STOPPED:
                    assert isinstance(node.primary.start_blocked_by, ModelLoading)
                    await asyncio.sleep(0)
            assert node.primary.child.state is State.FAILED


async def test_a_stalled_share_holds_up_neither_models_nor_a_stop(tmp_path: Path) -> None:
    with disk(tmp_path, stalled="a") as folders:
        models = (unseen("a"), unseen("b"))
        timings = replace(QUICK, inspect=0.05)
        async with running(
            *models, launcher=scripted(), folders=folders.access, timings=timings
        ) as node:
            await reached(node, "b", State.READY)
            await reached(node, "a", State.FAILED)
            assert "does not answer" in node.named("a").child.reason
            assert await said(node, "b") == "hello"
            node.load(node.named("a"))
            assert (
                folders.inspections.count("a") == 1
            )  # one thread a model, however often it is asked
        # The node has stopped, and the thread has not: nothing waited for it.


async def test_a_share_that_answers_late_is_served(tmp_path: Path) -> None:
    with disk(tmp_path, stalled="a") as folders:
        policy = replace(NEVER_AGAIN, retry_initial=0.02, retry_max=0.02)
        timings = replace(QUICK, inspect=0.02)
        async with running(
            unseen("a"), launcher=scripted(), folders=folders.access, timings=timings, policy=policy
        ) as node:
            await reached(node, "a", State.FAILED)
            folders.answers.set()
            await reached(node, "a", State.READY)


async def test_a_request_waits_for_the_first_look_at_a_folder(tmp_path: Path) -> None:
    with disk(tmp_path, stalled="a") as folders:
        async with running(
            unseen("a", preload=False),
            launcher=scripted(),
            folders=folders.access,
            resume=LOAD_WAITS,
        ) as node:
            with pytest.raises(ModelLoading):
                node.primary.child.open(1, None, None)  # type: ignore[arg-type]
            asking = asyncio.create_task(said(node, "a"))
            await asyncio.sleep(0)
            folders.answers.set()
            assert await soon(asking) == "hello"


async def test_a_reload_looks_at_a_failed_models_folder_at_once(tmp_path: Path) -> None:
    with disk(tmp_path, missing="a") as folders:
        models = (unseen("a"), unseen("b"))
        async with running(
            *models, launcher=scripted(), folders=folders.access, policy=NEVER_AGAIN
        ) as node:
            await reached(node, "a", State.FAILED)
            await reached(node, "b", State.READY)
            pid = node.named("b").child.status.pid
            folders.missing.clear()
            node.reload(models, folders.access)
            await reached(node, "a", State.READY)
            assert node.named("b").child.status.pid == pid


@pytest.mark.parametrize("verb", ["load", "restart"])
async def test_an_operator_has_a_failed_models_folder_looked_at(tmp_path: Path, verb: str) -> None:
    with disk(tmp_path, missing="a") as folders:
        async with running(
            unseen("a"), launcher=scripted(), folders=folders.access, policy=NEVER_AGAIN
        ) as node:
            await reached(node, "a", State.FAILED)
            getattr(node, verb)(node.primary)
            folders.missing.clear()
            getattr(node, verb)(node.primary)
            await reached(node, "a", State.READY)


async def test_what_is_found_in_a_folder_is_what_the_model_is_expected_to_take(
    tmp_path: Path,
) -> None:
    with disk(tmp_path) as folders:
        async with running(unseen("a"), launcher=scripted(), folders=folders.access) as node:
            assert node.primary.planned.context_length is None
            await ready(node)
            assert node.primary.planned.context_length == 8192
            assert node.primary.load.path == "/nowhere/a"
            assert node.primary.load.kv_bytes > 0


# --- slow retries -------------------------------------------------------------------------


async def test_a_model_that_could_not_be_loaded_is_tried_again(tmp_path: Path) -> None:
    launcher = scripted("--cannot-load", "--once", tmp_path / "once")
    async with running(launcher=launcher, policy=SLOWLY) as node:
        await ready(node)
        assert node.primary.child.lifecycle.restarts == 1
        assert not node.primary.child.lifecycle.given_up


async def test_a_begun_stream_outlives_giving_up_where_the_retry_comes_in_time(
    tmp_path: Path,
) -> None:
    launcher = scripted("--die-after-tokens", "2", "--once", tmp_path / "once")
    async with running(launcher=launcher, policy=SLOWLY) as node:
        await ready(node)
        generation = await soon(node.client.generate(node.primary, chat("a b c d")))
        text = ""
        while piece := await text_of(generation):
            text += piece
        assert text == "a b c d"
        assert node.primary.dispatcher.log.resumes == 1


async def test_a_model_without_room_at_its_retry_says_so_and_is_tried_again(
    tmp_path: Path,
) -> None:
    launcher = scripted("--cannot-load", "--once", tmp_path / "once")
    small, large = planned("small"), planned("large", weights=1 << 50)
    async with running(small, large, launcher=launcher, policy=SLOWLY) as node:
        await reached(node, "small", State.READY)
        assert node.named("large").child.state is State.STOPPED


# --- no process ---------------------------------------------------------------------------


@pytest.mark.process
async def test_a_program_that_appears_is_run_and_its_absence_counts_as_no_end(
    tmp_path: Path,
) -> None:
    program = tmp_path / "child"
    policy = RestartPolicy(base=0.001, ceiling=0.001, intensity=0)
    async with running(launcher=ProcessLauncher([str(program)]), policy=policy) as node:
        child = node.primary.child
        await eventually(tried(child, 5))
        assert not child.lifecycle.given_up
        assert child.recent_ends == (0, 0)
        words = " ".join(scripted_command())
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        program.chmod(0o755)
        await ready(node)


def tried(child: Child, times: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        return child.lifecycle.restarts >= times

    return so


@contextmanager
def no_more_files() -> Iterator[None]:
    """No file can be opened in this process: its table is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "darwin", reason="the limit does not bind open numbers there")
async def test_a_full_file_table_counts_as_no_end() -> None:
    policy = RestartPolicy(base=0.001, ceiling=0.001, intensity=1)
    async with running(launcher=scripted_process(), policy=policy) as node:
        await ready(node)
        child = node.primary.child
        with no_more_files():
            child.restart()
            await eventually(tried(child, child.lifecycle.restarts + 5))
            assert not child.lifecycle.given_up
            assert "Too many open files" in child.reason
        await ready(node)


# --- poison -------------------------------------------------------------------------------


async def test_deaths_of_a_poisonous_request_do_not_count_towards_giving_up() -> None:
    launcher = scripted("--die-after-tokens", "1", "--only", "poison")
    async with running(launcher=launcher, policy=AT_ONCE, resume=LOAD_WAITS) as node:
        for _ in range(4):  # of three deaths each; four ends are one too many
            await ready(node)
            with pytest.raises(PoisonedRequest):
                await said(node, node.primary.config.id, "poison one two")
        await ready(node)
        assert node.primary.child.recent_ends[0] <= 1
        assert await said(node, node.primary.config.id) == "hello"


def test_the_folders_of_tests_are_found_without_a_disk() -> None:
    assert NOWHERE.inspect(planned("a").config) == planned("a").folder


# --- what the folder brings, and what an operator says meanwhile ---------------------------


async def test_a_configured_template_that_is_read_after_the_start_reaches_the_process() -> None:
    def inspect(config: ModelConfig) -> ModelFolder:
        return msgspec.structs.replace(planned(config.id).inspected, chat_template="a template")

    folders = ModelFolderAccess(inspect, lambda _: [])
    async with running(unseen("a"), launcher=scripted(), folders=folders) as node:
        await reached(node, "a", State.READY)
        assert node.named("a").load.chat_template == "a template"


async def test_a_model_unloaded_while_it_waits_for_its_turn_to_start_stays_down(
    tmp_path: Path,
) -> None:
    with disk(tmp_path, stalled="a") as folders:
        models = (unseen("a"), unseen("b"))
        async with running(
            *models, launcher=scripted(), folders=folders.access, resume=LOAD_WAITS
        ) as node:
            b = node.named("b")

            async def waits() -> bool:
                return b.planned.folder is not None

            await eventually(waits)
            node.unload(b)
            folders.answers.set()
            await reached(node, "a", State.READY)
            task = node.starter._inspections[b].task
            assert task is not None
            await soon(task)
            for _ in range(10):
                await asyncio.sleep(0)
            assert b.child.state is State.STOPPED
            assert not b.child.coming_back


async def test_a_model_that_a_reload_removed_is_not_tried_again(tmp_path: Path) -> None:
    with disk(tmp_path, missing="a") as folders:
        folders.missing.add("b")
        async with running(
            unseen("a"),
            unseen("b"),
            launcher=scripted(),
            folders=folders.access,
            policy=SLOWLY,
        ) as node:
            await reached(node, "a", State.FAILED)
            node.reload([unseen("b")], folders.access)

            async def retired() -> bool:
                return not list(node._retiring)

            await eventually(retired)
            await eventually(lambda: no_thread_inspects("a"))
            tried = folders.inspections.count("a")
            others = folders.inspections.count("b")

            async def the_other_was_tried_often() -> bool:
                return folders.inspections.count("b") >= others + 5

            await eventually(the_other_was_tried_often)
            assert folders.inspections.count("a") == tried


async def no_thread_inspects(model_id: str) -> bool:
    """Return True once no thread inspects the folder: a thread may outlive its model."""
    return f"inspect {model_id}" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("turns", range(6))
async def test_a_retry_due_while_a_reload_removes_its_model_begins_nothing(
    tmp_path: Path, turns: int
) -> None:
    with disk(tmp_path, missing="a") as folders:
        async with running(
            unseen("a"), launcher=scripted(), folders=folders.access, policy=NEVER_AGAIN
        ) as node:
            await reached(node, "a", State.FAILED)
            removed, tried = node.named("a"), len(folders.inspections)
            node.reload([], folders.access)
            for _ in range(turns):
                await asyncio.sleep(0)
            removed.child._writer._on_retry_due()
            node.on_retry_due(removed)
            for _ in range(10):
                await asyncio.sleep(0)
            await eventually(lambda: no_thread_inspects("a"))
            assert len(folders.inspections) == tried


async def test_a_folder_that_answers_while_the_node_drains_starts_nothing(
    tmp_path: Path, pace: Fifo
) -> None:
    launcher = scripted("--pace", str(pace.path))
    timings = replace(QUICK, inspect=DEADLINE, drain=DEADLINE)
    with disk(tmp_path, stalled="a") as folders:
        async with running(
            unseen("a"), unseen("b"), launcher=launcher, folders=folders.access, timings=timings
        ) as node:
            await reached(node, "b", State.READY)
            generation = await node.client.generate(node.named("b"), chat("hello"))
            stopping = asyncio.create_task(node.stop())
            await eventually(lambda: drains(node))
            folders.answers.set()
            await eventually(lambda: no_thread_inspects("a"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not stopping.done()
            assert node.named("a").planned.folder is not None
            assert node.named("a").child.lifecycle.incarnation == 0
            pace.let(1)
            assert await text_of(generation) == "hello"
            await soon(stopping)


async def test_a_retry_due_while_a_node_stops_begins_nothing(tmp_path: Path) -> None:
    """Processes are asked to end only after the spares have ended."""
    with disk(tmp_path, missing="a") as folders:
        async with running(
            unseen("a"), launcher=scripted(), folders=folders.access, policy=NEVER_AGAIN
        ) as node:
            await reached(node, "a", State.FAILED)
            tried = len(folders.inspections)
            node.starter.close()
            with node.named("a").in_use():
                node.on_retry_due(node.named("a"))
                for _ in range(10):
                    await asyncio.sleep(0)
            await eventually(lambda: no_thread_inspects("a"))
            assert len(folders.inspections) == tried


async def drains(node: Node) -> bool:
    return node.draining


async def test_a_folder_is_watched_on_after_a_look_that_failed(tmp_path: Path) -> None:
    with disk(tmp_path, missing="a") as folders:
        looks = 0

        def places(config: ModelConfig) -> list[Path]:
            nonlocal looks
            looks += 1
            if looks == 2:  # the first is the inspection's own
                raise OSError(errno.EMFILE, "too many open files")
            return folders.access.places(config)

        async with running(
            unseen("a"),
            launcher=scripted(),
            folders=replace(folders.access, places=places),
            timings=WATCHFUL,
            policy=NEVER_AGAIN,
        ) as node:
            await reached(node, "a", State.FAILED)

            async def looked() -> bool:
                return looks >= 2

            await eventually(looked)
            folders.mount("a")
            await reached(node, "a", State.READY)
