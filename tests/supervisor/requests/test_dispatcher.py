"""Generations through the deaths of real processes: nothing lost, nothing said twice."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_worker.errors import (
    ChildLost,
    ContextLengthExceeded,
    InferenceError,
    ModelFailed,
    ModelLoading,
    NodeDraining,
    PoisonedRequest,
    WorkerError,
)
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.launch.launcher import Launcher
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.generation import FinishInfo, Generation
from tests.supervisor_harness import (
    NOT_READY,
    PATIENT,
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
    soon,
    text_of,
    whole_text,
)

TEXT = "one two three four five six"
DEATHS = (
    "--die-after-tokens",
    "--segv-after-tokens",
    "--abort-after-tokens",
    "--exit-after-tokens",
    "--garbage-after-tokens",
    "--unknown-id-after-tokens",
    "--hang-after-tokens",
)


async def ask(node: Node, text: str = TEXT) -> Generation:
    return await soon(node.client.generate(node.primary, chat(text)))


async def outcome(generation: Generation) -> str | type[WorkerError]:
    """Its whole text, or what it failed with."""
    try:
        return await whole_text(generation)
    except WorkerError as error:
        return type(error)


def kill(node: Node) -> None:
    pid = node.primary.child.status.pid
    assert pid is not None
    kill_worker(pid)


async def dead(node: Node) -> None:
    kill(node)
    await soon(node.primary.child.reached(*NOT_READY))


async def ready_again(node: Node) -> None:
    await soon(node.primary.child.reached(State.READY))


def plan(tmp_path: Path, *incarnations: str) -> Launcher:
    """A child whose processes have these flags, one after the other, and none after them."""
    file = tmp_path / "plan"
    file.write_text("\n".join(incarnations))
    return scripted("--plan", file)


# --- going on -------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [0, 1, 3, 5])
@pytest.mark.parametrize("flag", DEATHS)
async def test_it_goes_on_with_the_next_word_however_its_child_dies(
    flag: str, tokens: int, tmp_path: Path
) -> None:
    launcher = plan(tmp_path, f"{flag} {tokens}")
    timings = replace(QUICK, stall=0.3)
    async with running(launcher=launcher, timings=timings) as node:
        await ready(node)
        generation = await ask(node)
        assert await whole_text(generation) == TEXT
        assert generation.tokens == [1, 2, 3, 4, 5, 6]
        assert generation.finish_info == FinishInfo("stop", 6)
        assert (await soon(generation.started())).prompt_tokens == 6
        assert node.primary.child.lifecycle.restarts == 1
        assert node.primary.dispatcher.log.resumes == 1
        assert node.primary.admission.running == 0


@pytest.mark.parametrize("tokens", range(7))
async def test_killed_after_any_word_it_loses_none_and_repeats_none(
    tokens: int, pace: Fifo
) -> None:
    async with running(launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        generation = await ask(node)
        await soon(generation.started())
        said = ""
        for _ in range(tokens):
            pace.let(1)
            said += await text_of(generation)
        await dead(node)
        pace.let(6)
        assert said + await whole_text(generation) == TEXT


async def test_a_last_word_that_was_lost_is_said_by_the_next_process(tmp_path: Path) -> None:
    """The last token came, its Done did not."""
    async with running(
        launcher=plan(tmp_path, "--mute-after-tokens 6 --die-after-tokens 6")
    ) as node:
        await ready(node)
        generation = await ask(node)
        assert await whole_text(generation) == TEXT
        assert generation.finish_info == FinishInfo("stop", 6)
        assert node.primary.dispatcher.log.resumes == 1


async def test_everything_in_the_batch_goes_on_and_other_models_do_not_notice(pace: Fifo) -> None:
    async with running(planned("a"), planned("b"), launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        texts = ["one two", "three", "four five six"]
        victims = [await ask(node, text) for text in texts]
        other = await soon(node.client.generate(node.models["b"], chat("one two")))
        await dead(node)
        assert node.models["b"].child.state is State.READY
        other.cancel()
        assert await whole_text(other) == ""
        assert node.models["b"].dispatcher.log.resumes == 0
        # Both children take steps from the one pipe: only one is left to.
        node.models["b"].child.stop()
        await soon(node.models["b"].child.reached(State.STOPPED))
        await ready_again(node)
        pace.let(20)
        assert [await whole_text(victim) for victim in victims] == texts


async def test_whoever_queued_at_a_crash_is_served_after_it(pace: Fifo) -> None:
    model = planned(max_concurrency=1)
    async with running(model, launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        first = await ask(node, "one two")
        queued = asyncio.create_task(node.client.generate(node.primary, chat("three")))
        await asyncio.sleep(0)
        assert node.primary.admission.queued == 1
        await dead(node)
        await ready(node)
        pace.let(3)
        assert await whole_text(first) == "one two"
        # Its turn came while the model was there.
        assert await whole_text(await soon(queued)) == "three"
        assert (node.primary.admission.running, node.primary.admission.queued) == (0, 0)


@pytest.mark.parametrize(
    "way_back", ["--load-failed", "--exit-before-hello 7", "--wrong-protocol", "--hang-in-load"]
)
async def test_trouble_on_the_way_back_only_makes_the_pause_longer(
    way_back: str, tmp_path: Path
) -> None:
    launcher = plan(tmp_path, "--die-after-tokens 2", way_back)
    timings = replace(QUICK, load=0.3)
    async with running(launcher=launcher, timings=timings) as node:
        await ready(node)
        assert await whole_text(await ask(node)) == TEXT
        assert node.primary.child.lifecycle.restarts == 2


async def test_a_failure_of_the_request_itself_is_no_crash(tmp_path: Path) -> None:
    async with running(launcher=plan(tmp_path, "--fail-after-tokens 2")) as node:
        await ready(node)
        assert await outcome(await ask(node)) is InferenceError
        assert node.primary.child.lifecycle.restarts == 0


async def test_progress_counts_tokens_and_the_end_of_what_has_begun(pace: Fifo) -> None:
    async with running(launcher=scripted("--pace", pace.path)) as node:
        dispatcher = (await ready(node)).primary.dispatcher
        loaded = dispatcher.progress
        generation = await ask(node, "one two")
        await soon(generation.started())
        pace.let(1)
        assert await text_of(generation) == "one"
        read = dispatcher.progress
        assert read > loaded
        pace.let(1)
        assert await whole_text(generation) == " two"
        assert dispatcher.progress == read + 2  # a token and the end


async def test_progress_does_not_count_a_refusal() -> None:
    async with running(launcher=scripted("--refuse")) as node:
        dispatcher = (await ready(node)).primary.dispatcher
        loaded = dispatcher.progress
        assert await outcome(await ask(node)) is ContextLengthExceeded
        assert dispatcher.progress == loaded


# --- not going on ---------------------------------------------------------------------------


async def test_nobody_waits_longer_than_the_resume_timeout(hold: Fifo) -> None:
    hold.let(1)
    launcher = scripted("--hold-load", hold.path, "--hang-after-tokens", "2")
    async with running(launcher=launcher, resume=replace(PATIENT, timeout=0.1)) as node:
        await ready(node)
        generation = await ask(node)
        assert await text_of(generation) != ""
        await dead(node)
        with pytest.raises(ChildLost, match="the model is") as lost:
            await whole_text(generation)
        assert lost.value.retry_after
        assert node.primary.admission.running == 0
        hold.let(1)
        await ready(node)
        assert node.primary.dispatcher.log.resumes == 0


@pytest.mark.parametrize("tokens", [0, 2])
async def test_a_model_that_is_given_up_says_so_to_whoever_waits(tokens: int) -> None:
    policy = RestartPolicy(intensity=0)
    launcher = scripted("--die-after-tokens", str(tokens))
    async with running(launcher=launcher, policy=policy) as node:
        await ready(node)
        generation = await ask(node)
        with pytest.raises(ChildLost, match="failed: killed by SIGKILL") as lost:
            await whole_text(generation)
        assert lost.value.retry_after is not None
        assert 1 <= lost.value.retry_after <= policy.retry_initial
        assert node.primary.admission.running == 0


async def test_a_planned_end_is_an_end(pace: Fifo) -> None:
    async with running(launcher=scripted("--pace", pace.path)) as node:
        await ready(node)
        generation = await ask(node)
        pace.let(1)
        assert await text_of(generation) == "one"
        stopping = asyncio.create_task(node.stop())
        node.drain.cut_short()
        with pytest.raises(NodeDraining):
            await whole_text(generation)
        await soon(stopping)
        assert generation.crashes == 0


async def test_a_node_that_drains_waits_for_a_child_that_comes_back(hold: Fifo) -> None:
    hold.let(1)
    waits = replace(PATIENT, load_wait=3600)
    timings = replace(QUICK, drain=3600)
    launcher = scripted("--hold-load", hold.path, "--hang-after-tokens", "2", "--only", "two")
    async with running(launcher=launcher, resume=waits, timings=timings) as node:
        await ready(node)
        generation = await ask(node, "one and two and three")
        assert await text_of(generation) != ""
        await dead(node)
        fresh = await ask(node, "new")
        stopping = asyncio.create_task(node.stop())
        # What was never begun is not begun now.
        with pytest.raises(NodeDraining):
            await soon(fresh.started())
        assert not stopping.done()
        node.drain.cut_short()
        await soon(stopping)
        assert await outcome(generation) is ChildLost
        assert node.primary.admission.running == 0


async def test_a_drain_finishes_what_its_child_died_on(pace: Fifo) -> None:
    timings = replace(QUICK, drain=3600)
    async with running(launcher=scripted("--pace", pace.path), timings=timings) as node:
        await ready(node)
        generation = await ask(node)
        pace.let(1)
        assert await text_of(generation) == "one"
        stopping = asyncio.create_task(node.stop())
        await dead(node)
        await ready(node)
        pace.let(6)
        assert await whole_text(generation) == TEXT.removeprefix("one")
        await soon(stopping)
        assert node.primary.child.state is State.STOPPED


async def test_a_drain_that_takes_too_long_is_cut(pace: Fifo) -> None:
    timings = replace(QUICK, drain=0.1)
    async with running(launcher=scripted("--pace", pace.path), timings=timings) as node:
        await ready(node)
        generation = await ask(node)
        await soon(node.stop())
        assert await outcome(generation) is NodeDraining
        assert generation.crashes == 0


async def test_a_reader_that_leaves_while_it_waits_is_dropped_at_once(hold: Fifo) -> None:
    hold.let(1)
    launcher = scripted("--hold-load", hold.path, "--hang-after-tokens", "1")
    async with running(launcher=launcher) as node:
        await ready(node)
        generation = await ask(node)
        assert await text_of(generation) == "one"
        await dead(node)
        assert node.primary.admission.running == 1
        generation.cancel()
        assert node.primary.admission.running == 0
        assert await whole_text(generation) == ""
        hold.let(1)
        await ready(node)
        assert node.primary.child.open_ids == 0


async def test_what_was_left_before_its_child_died_does_not_come_back(tmp_path: Path) -> None:
    launcher = plan(tmp_path, "--hang-after-tokens 1")
    async with running(launcher=launcher) as node:
        await ready(node)
        generation = await ask(node)
        assert await text_of(generation) == "one"
        generation.cancel()
        await dead(node)
        assert await whole_text(generation) == ""
        await ready(node)
        assert node.primary.dispatcher.log.resumes == 0


# --- poison ---------------------------------------------------------------------------------


async def test_poison_is_refused_and_everybody_else_in_its_batch_finishes() -> None:
    texts = ["a b c d", "e f g", "some poison here", "h i", "j k l m n"]
    launcher = scripted("--die-after-tokens", "1", "--only", "poison")
    async with running(launcher=launcher, policy=RestartPolicy(base=0, intensity=3)) as node:
        await ready(node)
        generations = [await ask(node, text) for text in texts]
        ends = await asyncio.gather(*(outcome(generation) for generation in generations))
        assert ends == [PoisonedRequest if "poison" in text else text for text in texts]
        assert node.primary.child.lifecycle.restarts == 3
        assert node.primary.admission.running == 0


async def test_two_poisons_in_one_batch_cost_four_processes() -> None:
    texts = ["poison one", "a b c d", "poison two", "e f g"]
    launcher = scripted("--die-after-tokens", "1", "--only", "poison")
    async with running(launcher=launcher, policy=RestartPolicy(base=0, intensity=4)) as node:
        await ready(node)
        generations = [await ask(node, text) for text in texts]
        ends = await asyncio.gather(*(outcome(generation) for generation in generations))
        assert ends == [PoisonedRequest if "poison" in text else text for text in texts]
        assert node.primary.child.lifecycle.restarts == 4


@pytest.mark.parametrize("max_crashes", [1, 2, 4])
async def test_as_many_crashes_as_the_policy_says_make_poison(max_crashes: int) -> None:
    resume = replace(PATIENT, max_crashes=max_crashes)
    launcher = scripted("--die-after-tokens", "1")
    policy = RestartPolicy(base=0, intensity=10)
    async with running(launcher=launcher, resume=resume, policy=policy) as node:
        await ready(node)
        generation = await ask(node)
        with pytest.raises(PoisonedRequest, match=f"{max_crashes} processes died"):
            await whole_text(generation)
        assert node.primary.dispatcher.log.resumes == max_crashes - 1


async def test_while_a_suspect_runs_alone_others_wait_and_a_restart_finishes_them_all(
    pace: Fifo,
) -> None:
    timings = replace(QUICK, drain=3600)
    async with running(launcher=scripted("--pace", pace.path), timings=timings) as node:
        await ready(node)
        suspects = [await ask(node, "one two") for _ in range(3)]
        for _ in range(2):
            for suspect in suspects:
                await soon(suspect.started())
            await eventually(lambda: opened(node, 3))
            await dead(node)
        await ready(node)
        assert node.primary.child.open_ids == 1
        newcomer = await ask(node, "three")
        assert node.primary.child.open_ids == 1
        node.primary.child.restart()
        await soon(node.primary.child.reached(State.DRAINING))
        pace.let(6)
        assert [await whole_text(suspect) for suspect in suspects] == ["one two"] * 3
        # It was never begun: that is left to the next process.
        await soon(node.primary.child.reached(State.LOADING))
        await ready(node)
        pace.let(1)
        assert await whole_text(newcomer) == "three"
        assert node.primary.child.lifecycle.restarts == 3


async def opened(node: Node, count: int) -> bool:
    return node.primary.child.open_ids == count


# --- new requests and a model on its way ----------------------------------------------------


async def test_a_new_request_waits_for_a_model_that_loads(hold: Fifo) -> None:
    resume = replace(PATIENT, load_wait=3600)
    async with running(launcher=scripted("--hold-load", hold.path), resume=resume) as node:
        await soon(node.primary.child.reached(State.LOADING))
        generation = await ask(node)
        hold.let(1)
        assert await whole_text(generation) == TEXT
        assert node.primary.dispatcher.log.resumes == 0


async def test_the_first_request_of_a_model_on_demand_is_answered() -> None:
    resume = replace(PATIENT, load_wait=3600)
    async with running(planned(preload=False), launcher=scripted(), resume=resume) as node:
        assert await whole_text(await ask(node)) == TEXT


async def test_a_new_request_waits_no_longer_than_load_wait(hold: Fifo) -> None:
    resume = replace(PATIENT, load_wait=0.1)
    async with running(launcher=scripted("--hold-load", hold.path), resume=resume) as node:
        await soon(node.primary.child.reached(State.LOADING))
        generation = await ask(node)
        with pytest.raises(ModelLoading, match="is loading") as refused:
            await soon(generation.started())
        assert refused.value.retry_after
        assert node.primary.admission.running == 0


async def test_whoever_waits_for_a_model_that_is_given_up_is_told_why() -> None:
    resume = replace(PATIENT, load_wait=3600)
    async with running(launcher=scripted("--cannot-load"), resume=resume) as node:
        generation = await ask(node)
        with pytest.raises(ModelFailed, match="so it was written"):
            await soon(generation.started())
        with pytest.raises(ModelFailed, match="so it was written"):
            await ask(node)


# --- a restart ------------------------------------------------------------------------------


async def test_what_a_restart_cuts_off_goes_on_in_the_new_process(pace: Fifo) -> None:
    timings = replace(QUICK, drain=0.1)
    async with running(launcher=scripted("--pace", pace.path), timings=timings) as node:
        await ready(node)
        generation = await ask(node)
        pace.let(2)
        assert await text_of(generation) != ""
        pid = node.primary.child.status.pid
        node.restart(node.primary)
        await soon(node.primary.child.reached(State.LOADING))
        await ready(node)
        assert not alive(pid)
        pace.let(6)
        await whole_text(generation)
        assert generation.tokens == [1, 2, 3, 4, 5, 6]
        assert generation.crashes == 0


async def test_a_crash_in_the_drain_before_a_restart_loses_nothing(pace: Fifo) -> None:
    timings = replace(QUICK, drain=3600)
    async with running(launcher=scripted("--pace", pace.path), timings=timings) as node:
        await ready(node)
        generation = await ask(node)
        node.restart(node.primary)
        await soon(node.primary.child.reached(State.DRAINING))
        kill(node)
        await soon(node.primary.child.reached(State.LOADING))
        await ready(node)
        pace.let(6)
        assert await whole_text(generation) == TEXT


async def test_a_node_that_drains_restarts_nothing(pace: Fifo) -> None:
    timings = replace(QUICK, drain=3600)
    async with running(launcher=scripted("--pace", pace.path), timings=timings) as node:
        await ready(node)
        generation = await ask(node, "one")
        stopping = asyncio.create_task(node.stop())
        await asyncio.sleep(0)
        with pytest.raises(NodeDraining):
            node.restart(node.primary)
        pace.let(1)
        assert await whole_text(generation) == "one"
        await soon(stopping)
