"""After very many restarts the front holds what it held before the first.

The children are scripted: what is worn here is the front. `tox -e soak` has 1,000.
"""

import asyncio
import signal
from dataclasses import dataclass
from typing import Final

import psutil
import pytest
import uvloop

from mlx_worker.supervisor.process.child import Child
from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.process.states import State
from tests.rounds import rounds
from tests.supervisor_harness import (
    NOT_READY,
    alive,
    chat,
    eventually,
    kill_worker,
    planned,
    ready,
    running,
    scripted_process,
    text_of,
)

pytestmark = pytest.mark.soak


RESTARTS: Final = rounds(60, 60, 1000)
MODELS: Final = ("a", "b", "c", "d")
FOR_EVER: Final = RestartPolicy(base=0, ceiling=0, intensity=10**6, period=600)
SPARE: Final = StandbyPolicy(spares=1, calm=0, ping=0.05)
WAYS: Final = (signal.SIGKILL, signal.SIGUSR1, signal.SIGUSR2, None)
"""How they end: killed, for garbage, by themselves; None: as an operator asks."""


@dataclass(frozen=True)
class Holdings:
    """What this process has of the machine and of its loop."""

    descriptors: int
    threads: int
    children: int
    tasks: int


def holdings() -> Holdings:
    me = psutil.Process()
    return Holdings(
        me.num_fds(), me.num_threads(), len(me.children(recursive=True)), len(asyncio.all_tasks())
    )


async def wear(child: Child, seen: set[int]) -> None:
    """Its share of the restarts, one after the other."""
    for turn in range(RESTARTS // len(MODELS)):
        pid = child.status.pid
        assert pid is not None
        seen.add(pid)
        if (way := WAYS[turn % len(WAYS)]) is None:
            child.restart()
        else:
            kill_worker(pid, way)
        await child.reached(*NOT_READY)
        await child.reached(State.READY)


async def restart_them_all() -> tuple[Holdings, Holdings, int, set[int]]:
    seen: set[int] = set()
    models = [planned(name) for name in MODELS]
    async with running(
        *models, launcher=scripted_process(), policy=FOR_EVER, standby=SPARE
    ) as node:

        async def whole() -> bool:
            return len(node.spare_pool.waiting) == 1

        await ready(node)
        await eventually(whole)
        before = holdings()
        children = [served.child for served in node.models.values()]
        await asyncio.gather(*(wear(child, seen) for child in children))
        await eventually(whole)

        async def as_before() -> bool:
            return holdings() == before

        for served in node.models.values():
            generation = await node.client.generate(served, chat("here"))
            assert (await text_of(generation), await text_of(generation)) == ("here", "")
        await eventually(as_before)
        return before, holdings(), sum(child.lifecycle.restarts for child in children), seen


def test_nothing_is_left_of_very_many_restarts() -> None:
    before, after, restarts, seen = uvloop.run(restart_them_all())
    print(f"\nrestarts {restarts}\nbefore {before}\nafter  {after}")  # noqa: T201
    assert restarts == RESTARTS
    assert after == before
    assert len(seen) == RESTARTS
    assert not any(alive(pid) for pid in seen)
