"""A rank on another host: what the front sees of its keeper, and of a host that cannot be used.

The other host is a process that is started by a command, as ssh would be; its keeper is the
product's own, with a fake worker in the rank's place.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from mlx_worker.config.schema import HERE, HostConfig
from mlx_worker.supervisor.process.launch.group import RankGroup
from mlx_worker.supervisor.process.launch.launcher import launch_rank
from mlx_worker.supervisor.process.launch.rank_plan import RankPlan, with_own_address
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.process.states import Event
from mlx_worker.wire.messages import Hello, Load, Loaded, Ping, Pong
from tests.processes import eventually, has_ended
from tests.supervisor.process.launch.test_group import LOAD, QUICK, Reports
from tests.supervisor_harness import WORKER, kill_worker, scripted, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mlx_worker.supervisor.process.connection import ConnectionCallbacks
    from mlx_worker.supervisor.process.launch.launcher import Launched

KEEPER = """
import sys
from mlx_worker.supervisor.process.launch.keeper import keep_rank
assert sys.argv[-2:] == ["mlx-worker", "rank"], sys.argv
sys.exit(keep_rank((sys.executable, "-c", sys.argv[2], sys.argv[1])))
"""
"""A program in the place of ssh. Its rank is a fake worker, which knows nothing of silence."""

WITHOUT_SILENCE = """
import runpy, sys
sys.argv[:] = sys.argv[1:-2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

RUN = (sys.executable, "-c", KEEPER, str(WORKER), WITHOUT_SILENCE)
LOOPBACK = "127.0.0.1"


def plan_with(address: str = LOOPBACK, run: Sequence[str] = RUN) -> RankPlan:
    there = HostConfig("there", address, run=tuple(run), memory_limit=None, models_dir="/models")
    hosts = with_own_address((HostConfig(HERE, ""), there))
    return RankPlan(hosts, "pipeline", path="some-model")


class Group:
    """A group over two hosts, with what it reports."""

    def __init__(self, plan: RankPlan) -> None:
        self.reports = Reports()
        self._pause = PauseDetector(asyncio.get_running_loop(), QUICK.ping)
        self.group = RankGroup(self.reports.callbacks, plan, QUICK, self._pause)
        self.leaders = 0

    async def start(self) -> Launched:
        async def launch(callbacks: ConnectionCallbacks) -> Launched:
            self.leaders += 1
            return await scripted()(callbacks)

        async def launch_other(callbacks: ConnectionCallbacks, host: HostConfig) -> Launched:
            return await launch_rank(scripted(), callbacks, host, {"NAME": "value"})

        return await self.group.start(launch, launch_other)

    def close(self) -> None:
        self._pause.close()


@asynccontextmanager
async def running() -> AsyncIterator[Group]:
    group = Group(plan_with())
    launched = await group.start()
    try:
        yield group
    finally:
        group.group.kill()
        launched.connection.close()
        await soon(group.group.wait())
        group.close()


async def test_rank_on_another_host_loads_with_what_that_host_has() -> None:
    sent: list[Load] = []
    async with running() as group:
        await group.reports.next(Hello)
        (follower,) = group.group._followers
        send = follower.connection.send

        def record(message: msgspec.Struct) -> None:
            if isinstance(message, Load):
                sent.append(message)
            send(message)  # type: ignore[arg-type]

        follower.connection.send = record  # type: ignore[method-assign]
        group.group.load(LOAD)
        await group.reports.next(Loaded)
    (load,) = sent
    assert load.place is not None
    assert load.place.settings is not None
    assert (load.path, load.place.settings.models_dir) == ("some-model", "/models")
    assert load.place.leader.startswith("127.0.0.1:")
    # Each host has its own memory.
    assert (load.cache_bytes, load.kv_bytes) == (LOAD.cache_bytes, LOAD.kv_bytes)


async def test_memory_of_another_host_is_not_that_of_this_one() -> None:
    async with running() as group:
        await group.reports.next(Hello)
        assert group.group._leader is not None
        while group.reports.queue.empty():  # until each rank has told its memory
            group.group._leader.connection.send(Ping(1))
            await asyncio.sleep(0.01)
        pong = await group.reports.next(Pong)
        here, there = group.group.ranks
        assert (here.host, there.host) == ("here", "there")
        assert pong.resident_bytes == here.resident_bytes
        assert psutil.Process(there.pid).ppid() == there.started


async def test_killed_keeper_on_another_host_ends_the_group_and_its_rank() -> None:
    async with running() as group:
        await group.reports.next(Hello)
        (follower,) = group.group._followers
        assert follower.hello is not None
        rank = psutil.Process(follower.hello.pid)
        kill_worker(follower.process.pid)
        event, reason = await group.reports.next(tuple)
        assert event is Event.LINK_LOST
        assert reason == "rank 1 on there: killed by SIGKILL"
        await asyncio.to_thread(eventually, lambda: has_ended(rank))


@pytest.mark.parametrize(
    ("address", "run", "why"),
    [
        (LOOPBACK, ("false",), "rank 1 on there: exit status 1"),
        (
            LOOPBACK,
            (sys.executable, "-c", "import sys; sys.exit('Permission denied (publickey).')"),
            "rank 1 on there: exit status 1: Permission denied (publickey).",
        ),
        (LOOPBACK, ("/nowhere/ssh",), "cannot start /nowhere/ssh: [Errno 2]"),
        (
            "192.0.2.1",
            RUN,
            "rank 1 on there: cannot listen at 192.0.2.1: Cannot assign requested address",
        ),
        (
            LOOPBACK,
            (sys.executable, "-c", "print('Welcome to macOS', flush=True); input()"),
            "rank 1 on there: a frame of 1466264675 bytes",
        ),
    ],
    ids=["ends", "says why", "no command", "other address", "greeting"],
)
async def test_host_that_cannot_be_used_fails_the_start(
    address: str, run: tuple[str, ...], why: str
) -> None:
    plan = plan_with(run=run)
    if address != LOOPBACK:
        hosts = (plan.hosts[0], msgspec.structs.replace(plan.hosts[1], address=address))
        plan = RankPlan(hosts, "pipeline")
    group = Group(plan)
    with pytest.raises(OSError, match=r"there|nowhere") as caught:
        await soon(group.start())
    assert why in str(caught.value)
    assert group.leaders == 0
    group.close()


async def test_this_machine_has_the_address_that_reaches_the_others() -> None:
    here, there = plan_with().hosts
    assert here.address == there.address == LOOPBACK
    configured = with_own_address((HostConfig(HERE, "10.0.0.1"), there))
    assert configured[0].address == "10.0.0.1"
