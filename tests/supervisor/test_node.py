"""All children of a node, as real processes: who serves, who waits, how they end together."""

import asyncio
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mlx_worker.errors import (
    CacheError,
    ChildLost,
    ModelFailed,
    ModelLoading,
    NodeDraining,
    QueueFull,
    RequestTimedOut,
    UnknownModel,
)
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.generation import FinishInfo, Generation
from tests import processes
from tests.supervisor_harness import (
    AT_ONCE,
    NOT_READY,
    QUICK,
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
    whole_text,
)

ROOT = Path(__file__).parents[2]


async def ask(node: Node, text: str, *, system: str | None = None) -> Generation:
    return await soon(node.client.generate(node.primary, chat(text, system=system)))


async def resident(node: Node, prompt: str) -> bool:
    """Does a request with this system prompt hit the cache? Asking makes it resident."""
    generation = await ask(node, "hi", system=prompt)
    hit = (await soon(generation.started())).cache_hit
    await whole_text(generation)
    return hit


def kill(node: Node) -> int:
    pid = node.primary.child.status.pid
    assert pid is not None
    kill_worker(pid)
    return pid


async def back(node: Node) -> None:
    await soon(node.primary.child.reached(*NOT_READY))
    await soon(node.primary.child.reached(State.READY))


# --- who is meant ---------------------------------------------------------------------------


async def test_a_name_an_alias_the_default_and_nobody() -> None:
    models = [planned("a", aliases=("first",)), planned("b", default=True)]
    async with running(*models, launcher=scripted()) as node:
        assert node.find("a").config.id == "a"
        assert node.find("first").config.id == "a"
        assert node.find("b").config.id == "b"
        assert node.find(None).config.id == "b"
        assert node.find("gpt-4o").config.id == "b"


async def test_without_a_default_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    async with running(planned("a"), planned("b"), launcher=scripted()) as node:
        assert node.find(None).config.id == "a"
        with pytest.raises(UnknownModel, match="a, b") as refused:
            node.find("gpt-4o")
        assert refused.value.param == "model"


# --- crashes --------------------------------------------------------------------------------


async def test_a_model_that_was_given_up_takes_nothing_from_the_others(tmp_path: Path) -> None:
    launcher = scripted("--cannot-load", "--once", tmp_path / "once")
    async with running(planned("a"), planned("b"), launcher=launcher) as node:
        # One of the two takes the fault, whichever comes first.
        states = (State.READY, State.FAILED)
        ends = {
            model.config.id: await soon(model.child.reached(*states))
            for model in node.models.values()
        }
        assert sorted(ends.values()) == [State.FAILED, State.READY]
        for served in node.models.values():
            if ends[served.config.id] is State.READY:
                assert (
                    await whole_text(await soon(node.client.generate(served, chat("fine"))))
                    == "fine"
                )
            else:
                with pytest.raises(ModelFailed, match="so it was written"):
                    await soon(node.client.generate(served, chat("fine")))


async def test_warming_at_a_crash_is_done_in_the_next_process(tmp_path: Path) -> None:
    launcher = scripted("--hang-after-tokens", "0", "--once", tmp_path / "once")
    async with running(launcher=launcher) as node:
        await ready(node)
        hung = await ask(node, "hang now")
        await soon(hung.started())
        warming = asyncio.create_task(node.client.warm(node.primary, "a prompt"))
        await eventually(lambda: opened(node, 2))
        kill(node)
        assert (await soon(warming)).tokens == 2
        assert await whole_text(hung) == "hang now"
        assert node.primary.admission.running == 0


async def test_warming_at_two_crashes_fails_and_leaves_no_place_taken(tmp_path: Path) -> None:
    held = tmp_path / "held"
    with Fifo(held):
        async with running(launcher=scripted("--hold-warm", held)) as node:
            await ready(node)
            warming = asyncio.create_task(node.client.warm(node.primary, "a prompt"))
            await eventually(lambda: opened(node, 1))
            kill(node)
            await soon(node.primary.child.reached(*NOT_READY))
            await eventually(lambda: opened(node, 1))
            kill(node)
            with pytest.raises(ChildLost):
                await soon(warming)
            assert node.primary.admission.running == 0


async def test_clearing_at_a_crash_is_done_by_the_crash(tmp_path: Path) -> None:
    launcher = scripted("--hang-after-tokens", "0", "--once", tmp_path / "once")
    async with running(launcher=launcher) as node:
        await ready(node)
        hung = await ask(node, "hang now")
        await soon(hung.started())
        clearing = asyncio.create_task(node.client.clear(node.primary))
        await eventually(lambda: opened(node, 2))
        kill(node)
        await soon(clearing)


async def opened(node: Node, count: int) -> bool:
    return node.primary.child.open_ids == count


# --- places ---------------------------------------------------------------------------------


async def test_as_many_run_as_there_are_rows_the_next_wait_in_line_the_rest_is_refused(
    pace: Fifo,
) -> None:
    model = planned(max_concurrency=2, max_queue=1)
    async with running(model, launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        first, second = await ask(node, "one two three"), await ask(node, "four")
        third = asyncio.create_task(node.client.generate(node.primary, chat("five")))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="max_queue is 1") as refused:
            await soon(node.client.generate(node.primary, chat("six")))
        assert refused.value.retry_after == 1
        assert (node.primary.admission.running, node.primary.admission.queued) == (2, 1)
        await soon(first.started())
        await soon(second.started())
        pace.let(1)
        assert await whole_text(second) == "four"
        admitted = await soon(third)
        await soon(admitted.started())
        pace.let(2)
        assert await whole_text(first) == "one two three"
        assert await whole_text(admitted) == "five"
        assert (node.primary.admission.running, node.primary.admission.queued) == (0, 0)


async def test_places_are_given_in_the_order_they_were_asked_for(pace: Fifo) -> None:
    model = planned(max_concurrency=1)
    async with running(model, launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        running_now = await ask(node, "zero")
        waiting = [
            asyncio.create_task(node.client.generate(node.primary, chat(text)))
            for text in ("a", "b", "c")
        ]
        await asyncio.sleep(0)
        for task, later in zip(waiting, (2, 1, 0), strict=True):
            pace.let(1)
            await whole_text(running_now)
            running_now = await soon(task)
            assert node.primary.admission.queued == later
        pace.let(1)
        assert await whole_text(running_now) == "c"


async def test_whoever_leaves_the_line_makes_room_in_it(pace: Fifo) -> None:
    model = planned(max_concurrency=1, max_queue=1)
    async with running(model, launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        first = await ask(node, "one")
        leaver = asyncio.create_task(node.client.generate(node.primary, chat("two")))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait({leaver})
        stayer = asyncio.create_task(node.client.generate(node.primary, chat("three")))
        await asyncio.sleep(0)
        pace.let(2)
        assert await whole_text(first) == "one"
        assert await whole_text(await soon(stayer)) == "three"
        assert node.primary.admission.running == 0


async def test_leaving_a_generation_frees_its_row_and_its_place(pace: Fifo) -> None:
    model = planned(max_concurrency=1, max_queue=0)
    async with running(model, launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        generation = await ask(node, "one two three")
        pace.let(1)
        assert await text_of(generation) == "one"
        generation.cancel()
        assert await whole_text(generation) == ""
        assert generation.finish_info == FinishInfo("cancelled", 1)
        pace.let(1)
        assert await whole_text(await ask(node, "next")) == "next"


# --- the time of a request ------------------------------------------------------------------


async def test_a_request_that_takes_too_long_is_ended_and_its_row_is_free(pace: Fifo) -> None:
    model = planned(max_concurrency=1, request_timeout=0.2)
    async with running(model, launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        generation = await ask(node, "one two")
        pace.let(1)
        with pytest.raises(RequestTimedOut, match=r"not done in 0\.2 s"):
            await whole_text(generation)
        await eventually(lambda: opened(node, 0))
        pace.let(1)
        assert await whole_text(await ask(node, "next")) == "next"
        assert node.primary.admission.running == 0


async def test_time_in_line_counts_too(pace: Fifo) -> None:
    model = planned(max_concurrency=1, request_timeout=0.3)
    async with running(model, launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        first = await ask(node, "one two")
        with pytest.raises(RequestTimedOut):
            await whole_text(await ask(node, "never"))
        with pytest.raises(RequestTimedOut):
            await whole_text(first)
        assert (node.primary.admission.running, node.primary.admission.queued) == (0, 0)


# --- on demand ------------------------------------------------------------------------------


async def test_a_model_on_demand_starts_with_the_first_request_and_not_before() -> None:
    async with running(planned(preload=False), planned("other"), launcher=scripted()) as node:
        served = node.primary
        await ready(node)
        assert served.child.state is State.STOPPED
        with pytest.raises(ModelLoading) as refused:
            await ask(node, "hello")
        assert refused.value.retry_after
        await soon(served.child.reached(State.READY))
        assert await whole_text(await ask(node, "hello again")) == "hello again"


async def test_has_work_while_a_model_loads_and_while_requests_run(hold: Fifo, pace: Fifo) -> None:
    launcher = scripted("--hold-load", hold.path, "--pace", pace.path)
    async with running(planned(preload=False), launcher=launcher) as node:
        assert not node.has_work
        node.load(node.primary)
        await soon(node.primary.child.reached(State.LOADING))
        assert node.has_work
        hold.let(1)
        await ready(node)
        await soon(node.primary.child.reached(State.READY))
        assert not node.has_work
        generation = await soon(node.client.generate(node.primary, chat("one")))
        assert node.has_work
        pace.let(1)
        assert await whole_text(generation) == "one"
        assert not node.has_work


async def test_many_first_requests_start_one_process() -> None:
    async with running(planned(preload=False), launcher=scripted()) as node:
        for _ in range(5):
            with pytest.raises(ModelLoading):
                await ask(node, "hello")
        await soon(node.primary.child.reached(State.READY))
        assert node.primary.child.lifecycle.restarts == 0
        assert len(started_workers()) == 1


async def test_warming_a_model_on_demand_starts_it_and_is_done() -> None:
    async with running(planned(preload=False), launcher=scripted()) as node:
        assert (await soon(node.client.warm(node.primary, "a system prompt"))).tokens == 3


# --- warm prompts ---------------------------------------------------------------------------


async def test_a_warmed_prompt_is_resident_and_reported() -> None:
    async with running(launcher=scripted()) as node:
        await ready(node)
        warmed = await soon(node.client.warm(node.primary, "be kind"))
        assert warmed.digest == hashlib.sha256(b"be kind").hexdigest()
        assert warmed.tokens == 2
        assert await resident(node, "be kind")
        assert not await resident(node, "be cruel")


async def test_warming_waits_for_a_model_that_is_on_its_way(hold: Fifo) -> None:
    async with running(launcher=scripted("--hold-load", hold.path)) as node:
        await soon(node.primary.child.reached(State.LOADING))
        warming = asyncio.create_task(node.client.warm(node.primary, "be kind"))
        await asyncio.sleep(0)
        hold.let(1)
        assert (await soon(warming)).tokens == 2


async def test_warming_goes_on_when_its_caller_hangs_up(hold: Fifo) -> None:
    async with running(launcher=scripted("--hold-load", hold.path)) as node:
        await soon(node.primary.child.reached(State.LOADING))
        caller = asyncio.create_task(node.client.warm(node.primary, "be kind"))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait({caller})
        hold.let(1)
        await ready(node)

        async def reported() -> bool:
            state = node.primary.child.status.cache
            return state is not None and state.tokens == 2

        await eventually(reported)
        assert await resident(node, "be kind")


async def test_a_warm_up_that_fails_is_an_error_of_the_cache_and_the_child_lives() -> None:
    async with running(launcher=scripted("--fail-warm")) as node:
        await ready(node)
        with pytest.raises(CacheError, match="so it was written"):
            await soon(node.client.warm(node.primary, "be kind"))
        assert await whole_text(await ask(node, "still here")) == "still here"


async def test_clearing_forgets_what_was_warmed() -> None:
    async with running(launcher=scripted()) as node:
        await ready(node)
        await soon(node.client.warm(node.primary, "be kind"))
        await soon(node.client.clear(node.primary))
        assert not await resident(node, "be kind")


async def test_clearing_a_model_that_does_not_run_is_nothing_to_do() -> None:
    async with running(planned(preload=False), launcher=scripted()) as node:
        await soon(node.client.clear(node.primary))
        assert node.primary.child.state is State.STOPPED


async def test_configured_prompts_are_warmed_after_the_start_and_after_every_restart(
    tmp_path: Path,
) -> None:
    files = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for file in files:
        file.write_text(f"the prompt of {file.stem}", encoding="utf-8")
    async with running(planned(warm=tuple(files)), launcher=scripted()) as node:
        for _ in range(2):
            await ready(node)

            async def warmed() -> bool:
                state = node.primary.child.status.cache
                return state is not None and state.warmed == 2

            await eventually(warmed)
            assert await resident(node, "the prompt of one")
            assert await resident(node, "the prompt of two")
            kill(node)
            await soon(node.primary.child.reached(*NOT_READY))


async def test_a_prompt_file_that_is_gone_keeps_neither_the_model_nor_the_next_file_back(
    tmp_path: Path,
) -> None:
    there = tmp_path / "there.txt"
    there.write_text("be kind", encoding="utf-8")
    async with running(planned(warm=(tmp_path / "gone.txt", there)), launcher=scripted()) as node:
        await ready(node)

        async def warmed() -> bool:
            return node.primary.child.status.cache is not None

        await eventually(warmed)
        assert await resident(node, "be kind")


async def test_a_prompt_file_is_warmed_without_its_byte_order_mark(tmp_path: Path) -> None:
    marked, utf16 = tmp_path / "marked.txt", tmp_path / "utf16.txt"
    marked.write_text("be kind", encoding="utf-8-sig")
    utf16.write_text("be brief", encoding="utf-16")
    async with running(planned(warm=(utf16, marked)), launcher=scripted()) as node:
        await ready(node)

        async def warmed() -> bool:
            state = node.primary.child.status.cache
            return state is not None and state.warmed == 1

        await eventually(warmed)
        assert await resident(node, "be kind")


async def test_what_was_warmed_dies_with_its_process_and_is_warmed_again_in_the_next(
    hold: Fifo,
) -> None:
    async with running(launcher=scripted("--hold-load", hold.path)) as node:
        hold.let(1)
        await ready(node)
        for prompt in ("be very kind", "be kind"):
            await soon(node.client.warm(node.primary, prompt))
        kill(node)
        await soon(node.primary.child.reached(State.LOADING))
        state = node.primary.child.status.cache
        assert state is None or (state.tokens, state.warmed, state.bytes) == (0, 0, 0)
        hold.let(1)
        await soon(node.primary.child.reached(State.READY))

        async def warm_again() -> bool:
            state = node.primary.child.status.cache
            return state is not None and (state.warmed, state.tokens) == (2, 2)

        await eventually(warm_again)
        assert await resident(node, "be kind")


async def test_a_prompt_on_which_the_next_process_dies_is_not_warmed_for_ever() -> None:
    async with running(launcher=scripted()) as node:
        await ready(node)
        await soon(node.client.warm(node.primary, "be kind"))
        again = [prompt async for prompt in node.primary.warm_set.prompts()]
        assert again == ["be kind"]
        assert not node.primary.warm_set


async def test_what_was_cleared_is_not_warmed_again() -> None:
    async with running(launcher=scripted()) as node:
        await ready(node)
        await soon(node.client.warm(node.primary, "be kind"))
        await soon(node.client.clear(node.primary))
        kill(node)
        await back(node)
        assert not await resident(node, "be kind")


# --- the end --------------------------------------------------------------------------------


async def test_a_draining_node_takes_no_new_work_while_what_runs_finishes(pace: Fifo) -> None:
    model, timings = planned(max_concurrency=1), replace(QUICK, drain=3600)
    async with running(model, launcher=scripted("--pace", pace.path), timings=timings) as node:
        await ready(node)
        generation = await ask(node, "one two")
        queued = asyncio.create_task(node.client.generate(node.primary, chat("three")))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(node.stop())
        await eventually(lambda: draining(node))
        with pytest.raises(NodeDraining) as refused:
            await ask(node, "too late")
        assert refused.value.retry_after
        with pytest.raises(NodeDraining):
            await soon(node.client.warm(node.primary, "too late"))
        pace.let(2)
        assert await whole_text(generation) == "one two"
        with pytest.raises(NodeDraining):
            await soon(queued)
        await soon(stopping)


async def draining(node: Node) -> bool:
    return node.draining


async def test_hurry_cuts_what_still_runs_on_every_child(pace: Fifo) -> None:
    timings = replace(QUICK, drain=3600)
    launcher = scripted("--pace", pace.path)
    async with running(planned("a"), planned("b"), launcher=launcher, timings=timings) as node:
        await ready(node)
        generations = [
            await soon(node.client.generate(served, chat("one two")))
            for served in node.models.values()
        ]
        stopping = asyncio.create_task(node.stop())
        await eventually(lambda: draining(node))
        node.drain.cut_short()
        for generation in generations:
            with pytest.raises(NodeDraining):
                await text_of(generation)
        await soon(stopping)


async def test_hurry_right_after_stop_is_not_lost(pace: Fifo) -> None:
    timings = replace(QUICK, drain=3600)
    async with running(launcher=scripted("--pace", pace.path), timings=timings) as node:
        await ready(node)
        generation = await ask(node, "one two")
        stopping = asyncio.create_task(node.stop())
        await asyncio.sleep(0)
        node.drain.cut_short()
        with pytest.raises(NodeDraining):
            await text_of(generation)
        await soon(stopping)


@pytest.mark.process
async def test_after_stop_no_process_is_left() -> None:
    async with running(planned("a"), planned("b"), launcher=scripted_process()) as node:
        await ready(node)
        pids = [served.child.status.pid for served in node.models.values()]
        assert len(set(pids)) == 2
        await soon(node.stop())
        assert not any(alive(pid) for pid in pids)


async def test_a_node_stops_at_any_moment_of_its_start() -> None:
    for turns in (0, 1, 2, 5, 20):
        async with running(planned("a"), planned("b"), launcher=scripted()) as node:
            for _ in range(turns):
                await asyncio.sleep(0)
            await soon(node.stop())
            assert {model.child.state for model in node.models.values()} == {State.STOPPED}
            assert started_workers() == []


async def test_a_node_whose_children_fail_for_ever_stops_too() -> None:
    slowly = RestartPolicy(base=3600, ceiling=3600)
    launcher = scripted("--exit-before-hello", "1")
    async with running(launcher=launcher, policy=slowly) as node:
        await soon(node.primary.child.reached(State.BACKOFF))
        await soon(node.stop())
    async with running(launcher=launcher, policy=AT_ONCE) as node:
        await soon(node.primary.child.reached(State.FAILED))
        await soon(node.stop())


LONELY_FRONT = """
import asyncio
from tests import processes
from tests.supervisor_harness import planned, ready, running, scripted_process

async def main():
    async with running(planned("a"), planned("b"), launcher=scripted_process()) as node:
        await ready(node)
        print(*(served.child.status.pid for served in node.models.values()), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.process
def test_children_do_not_outlive_a_front_that_was_killed() -> None:
    front = subprocess.Popen(
        [sys.executable, "-c", LONELY_FRONT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with front:
        assert front.stdout is not None
        children = [psutil.Process(int(pid)) for pid in front.stdout.readline().split()]
        assert len(children) == 2
        assert all(child.is_running() for child in children)
        front.kill()
        processes.eventually(lambda: all(processes.has_ended(child) for child in children))
