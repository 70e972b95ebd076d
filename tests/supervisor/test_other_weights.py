"""Generations whose next process has other weights or code: an error, never another's words."""

import asyncio
from pathlib import Path

import pytest

from mlx_worker.errors import WeightsChanged
from mlx_worker.supervisor.event_log import NodeEvent
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.launch.launcher import Launcher
from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
from mlx_worker.supervisor.requests.generation import Generation
from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
from tests.supervisor_harness import (
    DEADLINE,
    NOT_READY,
    NOWHERE,
    Fifo,
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
OLD = "--weights old --version 1"


def plan(tmp_path: Path, *incarnations: str) -> Launcher:
    file = tmp_path / "plan"
    file.write_text("\n".join(incarnations))
    return scripted("--plan", file)


async def ask(node: Node, text: str = TEXT) -> Generation:
    return await soon(node.client.generate(node.primary, chat(text)))


def events(node: Node, kind: str) -> list[NodeEvent]:
    return [event for _, event in node.events.after(0) if event.kind == kind]


@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize(
    ("after", "change"),
    [
        ("--weights new --version 1", "model files: old, now new"),
        ("--weights old --version 2", "scripted: 1, now 2"),
    ],
)
async def test_begun_by_other_weights_or_code_it_ends_with_what_changed(
    tokens: int, after: str, change: str, tmp_path: Path
) -> None:
    launcher = plan(tmp_path, f"{OLD} --die-after-tokens {tokens}", after)
    async with running(launcher=launcher) as node:
        await ready(node)
        generation = await ask(node)
        with pytest.raises(WeightsChanged, match=f"{change}.*send the request again"):
            await whole_text(generation)
        assert generation.tokens == list(range(1, tokens + 1))
        assert node.primary.dispatcher.log.resumes == 0
        assert node.primary.admission.running == 0
        assert len(events(node, "weights changed")) == 1
        assert await whole_text(await ask(node)) == TEXT


async def test_by_the_same_weights_and_code_it_goes_on(tmp_path: Path) -> None:
    async with running(launcher=plan(tmp_path, f"{OLD} --die-after-tokens 2", OLD)) as node:
        await ready(node)
        assert await whole_text(await ask(node)) == TEXT


async def test_a_detour_over_other_weights_still_ends_it(tmp_path: Path) -> None:
    """The third process has the first one's weights, but the second has ended it by then."""
    launcher = plan(tmp_path, f"{OLD} --die-after-tokens 2", "--weights new", OLD)
    async with running(launcher=launcher) as node:
        await ready(node)
        with pytest.raises(WeightsChanged):
            await whole_text(await ask(node))


async def test_weights_that_come_back_before_anybody_served_go_on(tmp_path: Path) -> None:
    launcher = plan(
        tmp_path, f"{OLD} --die-after-tokens 2", "--weights new --exit-before-hello 3", OLD
    )
    async with running(launcher=launcher) as node:
        await ready(node)
        assert await whole_text(await ask(node)) == TEXT


async def test_what_no_process_has_begun_runs_on_the_new_weights(
    hold: Fifo, tmp_path: Path
) -> None:
    file = tmp_path / "plan"
    file.write_text(f"{OLD}\n--weights new")
    async with running(launcher=scripted("--plan", file, "--hold-start", hold.path)) as node:
        await ready(node)
        generation = await ask(node)
        kill_worker(node.primary.child.status.pid)
        await soon(node.primary.child.reached(*NOT_READY))
        hold.let(1)
        assert await whole_text(generation) == TEXT


async def test_three_hundred_that_end_together_all_hear_it(pace: Fifo, tmp_path: Path) -> None:
    file = tmp_path / "plan"
    file.write_text(f"{OLD}\n--weights new")
    model = planned(max_concurrency=300)
    async with running(model, launcher=scripted("--plan", file, "--pace", pace.path)) as node:
        await ready(node)
        generations = [await ask(node) for _ in range(300)]
        await soon(asyncio.gather(*(item.started() for item in generations)))
        kill_worker(node.primary.child.status.pid)
        for generation in generations:
            with pytest.raises(WeightsChanged):
                await whole_text(generation)
        assert not node.primary.dispatcher.is_busy


async def test_a_spare_of_older_code_is_told_apart(tmp_path: Path) -> None:
    launcher = plan(tmp_path, f"{OLD} --die-after-tokens 2", "--weights old --version 2")
    standby = StandbyPolicy(spares=1, calm=0.1, ping=0.02, silence=DEADLINE, start=DEADLINE)
    async with running(launcher=launcher, standby=standby) as node:
        await ready(node)

        async def has_spare() -> bool:
            return bool(node.spare_pool.waiting)

        await eventually(has_spare)
        with pytest.raises(WeightsChanged, match="scripted: 1, now 2"):
            await whole_text(await ask(node))


async def test_a_process_of_another_package_says_to_restart_the_node(tmp_path: Path) -> None:
    """Its own code is one of the versions that a process tells; the node knows what it runs."""
    resume = ResumePolicy(timeout=DEADLINE)
    launcher = plan(tmp_path, "--package 0.0.1 --die-after-tokens 2", "--package 0.0.2")
    async with running(launcher=launcher, resume=resume) as node:
        await ready(node)
        with pytest.raises(WeightsChanged, match="restart the node, then send"):
            await whole_text(await ask(node))
        told = events(node, "package replaced")
        assert [event.facts["process"] for event in told] == ["0.0.1", "0.0.2"]
        assert told[-1].facts["cure"] == "restart the node"


async def test_other_variables_of_the_environment_end_what_was_begun(pace: Fifo) -> None:
    launcher = scripted("--pace", pace.path)
    async with running(launcher=launcher) as node:
        await ready(node)
        generation = await ask(node)
        pace.let(2)
        await soon(text_of(generation))
        node.reload([planned(env={"KERNELS": "others"})], NOWHERE)
        with pytest.raises(WeightsChanged, match="environment variables"):
            await whole_text(generation)
