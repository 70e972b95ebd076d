"""A changed configuration: who goes on, who gets a new process, who comes and who leaves."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlx_worker.errors import ModelLoading, NodeDraining, UnknownModel
from mlx_worker.supervisor.config_diff import Changes, compare, with_known_folders
from mlx_worker.supervisor.memory.policy import PROCESS_BYTES
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.states import State
from tests.supervisor_harness import (
    NOWHERE,
    PATIENT,
    QUICK,
    Fifo,
    alive,
    chat,
    eventually,
    planned,
    ready,
    running,
    scripted,
    soon,
    started_workers,
    whole_text,
)

PATIENTLY = replace(QUICK, drain=3600)
WAITS = replace(PATIENT, load_wait=60)


async def said(node: Node, model: str, text: str = "hello") -> str:
    return await whole_text(await soon(node.client.generate(node.named(model), chat(text))))


# --- what changes, without a process --------------------------------------------------------


def test_what_only_the_front_goes_by_needs_no_new_process() -> None:
    before = {"a": planned("a"), "b": planned("b")}
    after = [planned("a", aliases=("x",), max_queue=7, idle_timeout=9, pin=False), planned("b")]
    assert compare(before, after) == Changes(changed=("a",))


@pytest.mark.parametrize(
    "setting",
    [
        *({"max_concurrency": 3}, {"context_length": 64}, {"cache_bytes": 9}),
        *({"prefill_pause": 1.0}, {"tools": "ignore"}, {"env": {"A": "1"}}),
        {"kv_events": "tcp://127.0.0.1:5557"},
    ],
)
def test_what_the_process_goes_by_needs_a_new_one(setting: dict[str, Any]) -> None:
    after = planned("a", **setting)
    assert compare({"a": planned("a")}, [after]) == Changes(restarted=("a",))


def test_another_type_of_weights_needs_a_new_process() -> None:
    before = planned("a")
    after = replace(before, folder=msgspec.structs.replace(before.inspected, dtype="float32"))
    assert compare({"a": before}, [after]) == Changes(restarted=("a",))


def test_another_draft_model_needs_a_new_process() -> None:
    before = planned("a")
    draft = msgspec.structs.replace(before.inspected, draft=Path("/nowhere/draft"))
    after = replace(before, folder=draft)
    assert compare({"a": before}, [after]) == Changes(restarted=("a",))
    # A folder that was not inspected again is not known to have another draft model.
    unseen = replace(planned("a", draft="draft"), folder=None)
    assert with_known_folders({"a": before}, [unseen]) == [unseen]


def test_another_text_of_a_template_needs_a_new_process() -> None:
    folder = planned("a").inspected
    before, after = (
        replace(planned("a"), folder=msgspec.structs.replace(folder, chat_template=text))
        for text in ("one", "two")
    )
    assert compare({"a": before}, [after]) == Changes(restarted=("a",))
    assert compare({"a": before}, [before]) == Changes()


@pytest.mark.parametrize(
    "setting", [{"system_prompt": "x"}, {"stop": ("x",)}, {"chat_template_kwargs": {"x": 1}}]
)
def test_what_the_front_adds_to_requests_needs_none(setting: dict[str, Any]) -> None:
    assert compare({"a": planned("a")}, [planned("a", **setting)]) == Changes(changed=("a",))


def test_another_folder_is_another_model() -> None:
    moved = replace(planned("a"), folder=planned("elsewhere").folder)
    assert compare({"a": planned("a")}, [moved]) == Changes(added=("a",), removed=("a",))


def test_models_come_and_go() -> None:
    before = {"a": planned("a"), "b": planned("b")}
    after = [planned("b"), planned("c")]
    assert compare(before, after) == Changes(added=("c",), removed=("a",))


# --- with processes -------------------------------------------------------------------------


async def test_only_the_changed_model_gets_a_new_process() -> None:
    async with running(planned("a"), planned("b"), launcher=scripted()) as node:
        await ready(node)
        pids = {id_: runtime.child.status.pid for id_, runtime in node.models.items()}
        node.reload([planned("a", context_length=64), planned("b", aliases=("x",))], NOWHERE)
        await soon(node.named("a").child.reached(State.STARTING, State.LOADING))
        await soon(node.named("a").child.reached(State.READY))
        assert node.named("a").child.status.pid != pids["a"]
        assert node.named("x").child.status.pid == pids["b"]
        loaded = node.named("a").child.status.loaded
        assert loaded
        assert loaded.context_length == 64


async def test_what_runs_in_a_changed_model_finishes_and_what_waits_is_served_next(
    pace: Fifo,
) -> None:
    launcher = scripted("--pace", pace.path)
    async with running(
        planned(max_concurrency=1), launcher=launcher, timings=PATIENTLY, resume=WAITS
    ) as node:
        await ready(node)
        first = await soon(node.client.generate(node.primary, chat("one two")))
        second = asyncio.create_task(node.client.generate(node.primary, chat("three")))
        await asyncio.sleep(0)
        # No place more: with one the second could still begin in the process that is to end.
        node.reload([planned(max_concurrency=1, context_length=64)], NOWHERE)
        await soon(node.primary.child.reached(State.DRAINING))
        pace.let(2)
        assert await whole_text(first) == "one two"
        await soon(node.primary.child.reached(State.READY))
        pace.let(1)
        assert await whole_text(await soon(second)) == "three"
        assert (node.primary.child.lifecycle.restarts, node.primary.dispatcher.log.resumes) == (
            1,
            0,
        )
        assert node.primary.admission.running == 0


async def test_a_new_model_starts_and_a_removed_one_ends_after_its_work(pace: Fifo) -> None:
    launcher = scripted("--pace", pace.path)
    async with running(planned("a"), launcher=launcher, timings=PATIENTLY, resume=WAITS) as node:
        await ready(node)
        old = node.named("a").child.status.pid
        last = await soon(node.client.generate(node.named("a"), chat("one two")))
        changes = node.reload([planned("b", preload=False)], NOWHERE)
        assert changes == Changes(added=("b",), removed=("a",))
        with pytest.raises(UnknownModel):
            node.named("a")
        assert alive(old)
        pace.let(2)
        assert await whole_text(last) == "one two"

        async def it_has_ended() -> bool:
            return not alive(old)

        await eventually(it_has_ended)
        pace.let(1)
        assert await said(node, "b") == "hello"


async def test_who_waits_for_a_removed_model_is_sent_away(pace: Fifo) -> None:
    launcher = scripted("--pace", pace.path)
    model = planned("a", max_concurrency=1)
    async with running(model, launcher=launcher, timings=PATIENTLY) as node:
        await ready(node)
        served = node.named("a")
        first = await soon(node.client.generate(served, chat("one")))
        second = asyncio.create_task(node.client.generate(served, chat("two")))
        await asyncio.sleep(0)
        node.reload([planned("b", preload=False)], NOWHERE)
        pace.let(1)
        assert await whole_text(first) == "one"
        with pytest.raises(UnknownModel, match="'a' was removed from the configuration"):
            await soon(second)


async def test_who_waits_for_a_model_that_does_not_run_and_is_removed_hears_so(hold: Fifo) -> None:
    launcher = scripted("--hold-load", hold.path)
    async with running(planned("a"), launcher=launcher, resume=WAITS) as node:
        waiting = await soon(node.client.generate(node.named("a"), chat("one")))
        node.reload([planned("b", preload=False)], NOWHERE)
        with pytest.raises(UnknownModel, match="'a' was removed from the configuration"):
            await soon(waiting.started())


async def test_who_waits_for_a_model_whose_folder_moved_is_told_to_come_again(hold: Fifo) -> None:
    launcher = scripted("--hold-load", hold.path)
    async with running(planned("a"), launcher=launcher, resume=WAITS) as node:
        waiting = await soon(node.client.generate(node.named("a"), chat("one")))
        node.reload([replace(planned("a"), folder=planned("elsewhere").folder)], NOWHERE)
        with pytest.raises(ModelLoading, match="replaced by another folder") as told:
            await soon(waiting.started())
        assert told.value.retry_after


async def test_a_model_whose_folder_moved_comes_back_in_the_room_that_it_left() -> None:
    one = PROCESS_BYTES + 1
    launcher = scripted("--resident", str(one))
    async with running(planned("a"), launcher=launcher, memory_limit=one, resume=WAITS) as node:
        await ready(node)
        before = node.named("a").child
        node.reload([replace(planned("a"), folder=planned("elsewhere").folder)], NOWHERE)
        await soon(node.named("a").child.reached(State.READY))
        assert before.state is State.STOPPED
        assert node.named("a").load.path == "/nowhere/elsewhere"
        assert await said(node, "a") == "hello"


async def test_a_node_stops_while_a_removed_model_is_at_work(pace: Fifo) -> None:
    launcher = scripted("--pace", pace.path)
    async with running(planned("a"), launcher=launcher, timings=replace(QUICK, drain=0.3)) as node:
        await ready(node)
        await soon(node.client.generate(node.named("a"), chat("one")))
        node.reload([planned("b", preload=False)], NOWHERE)
        await soon(node.stop())
        assert started_workers() == []


async def test_a_draining_node_reloads_nothing() -> None:
    async with running(planned("a"), launcher=scripted()) as node:
        await soon(node.stop())
        with pytest.raises(NodeDraining):
            node.reload([planned("b")], NOWHERE)
        assert list(node.models) == ["a"]
