"""Several processes as one: when the group has begun, and what ends all of them."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.config.schema import HostConfig
from mlx_worker.supervisor.process.connection import ConnectionCallbacks
from mlx_worker.supervisor.process.launch.group import RankGroup
from mlx_worker.supervisor.process.launch.rank_plan import LOOPBACK, NAMELESS, RankPlan
from mlx_worker.supervisor.process.lifecycle import Timings
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.process.states import Event
from mlx_worker.wire.kv_cost import KvCost, KvGrowth
from mlx_worker.wire.messages import Hello, Load, Loaded, Ping, Pong
from mlx_worker.wire.prompt_cache import CacheState
from tests.fake_worker import GATHERING_PORT
from tests.supervisor_harness import (
    DEADLINE,
    Fifo,
    alive,
    kill_worker,
    scripted,
    soon,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mlx_worker.supervisor.process.launch.launcher import Launched, Launcher

LOAD = Load("model", "/nowhere", 4, None, cache_bytes=90, kv_bytes=60, prefill_pause=0.1)
THREE = RankPlan((HostConfig(NAMELESS, LOOPBACK),) * 3)
QUICK = Timings(ping=0.01, stall=DEADLINE)


class Reports:
    """What a group reports, as it comes."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.callbacks = ConnectionCallbacks(
            on_report=self.queue.put_nowait,
            on_end=lambda event, reason: self.queue.put_nowait((event, reason)),
            on_idle=lambda: None,
            on_step=lambda _: None,
        )

    async def next(self, kind: type) -> Any:
        """Return the next report of this kind; others before it are passed over."""
        while not isinstance(report := await soon(self.queue.get()), kind):
            pass
        return report


class Ranks:
    """A group of three, with its reports and the numbers of its processes."""

    def __init__(self, reports: Reports, group: RankGroup) -> None:
        self.reports = reports
        self.group = group
        self.launched: Launched | None = None
        self.pids: list[int] = []

    async def loaded(self) -> None:
        await self.reports.next(Hello)
        self.group.load(LOAD)
        await self.reports.next(Loaded)

    async def pong(self) -> Pong:
        """Ping until there is a report of all ranks."""
        assert self.launched is not None
        while not all(follower.pong for follower in self.group._followers):  # noqa: ASYNC110
            await asyncio.sleep(0)
        self.launched.connection.send(Ping(1))
        pong = await self.reports.next(Pong)
        assert isinstance(pong, Pong)
        return pong

    async def ended(self) -> int:
        code = await soon(self.group.wait())
        assert not any(map(alive, self.pids))
        return code


@asynccontextmanager
async def ranks(
    timings: Timings = QUICK, launcher: Launcher | None = None, last: Launcher | None = None
) -> AsyncIterator[Ranks]:
    """A group whose workers have this launcher; that of the last rank may differ."""
    reports = Reports()
    pause = PauseDetector(asyncio.get_running_loop(), timings.ping)
    running = Ranks(reports, RankGroup(reports.callbacks, THREE, timings, pause))
    launcher = launcher or scripted()

    others = [launcher, last or launcher]

    async def launch_rank(callbacks: ConnectionCallbacks, host: HostConfig) -> Launched:
        assert host.is_here
        return await others.pop(0)(callbacks)

    running.launched = await running.group.start(launcher, launch_rank)
    others_launched = [follower.process for follower in running.group._followers]
    running.pids = [running.group.pid, *(process.pid for process in others_launched)]
    try:
        yield running
    finally:
        running.group.kill()
        running.launched.connection.close()
        await soon(running.group.wait())
        pause.close()


async def test_group_says_hello_once_every_rank_has(tmp_path: Path) -> None:
    with Fifo(tmp_path / "hello") as hello:
        held = scripted("--hold-hello", hello.path)
        async with ranks(last=held) as running:
            await asyncio.sleep(0.05)
            assert running.reports.queue.empty()
            hello.let(1)
            assert (await running.reports.next(Hello)).pid == running.pids[0]


async def test_ranks_load_with_their_places_and_share_the_memory() -> None:
    sent: list[Load] = []
    async with ranks() as running:
        await running.reports.next(Hello)
        for follower in running.group._followers:
            send = follower.connection.send

            def record(message: Any, send: Any = send) -> None:
                if isinstance(message, Load):
                    sent.append(message)
                send(message)

            follower.connection.send = record  # type: ignore[method-assign]
        running.group.load(LOAD)
        await running.reports.next(Loaded)
    places = [load.place for load in sent if load.place is not None]
    assert [(place.rank, place.ranks, place.leader) for place in places] == [
        (1, 3, f"127.0.0.1:{GATHERING_PORT}"),
        (2, 3, f"127.0.0.1:{GATHERING_PORT}"),
    ]
    assert len({place.secret for place in places}) == 1
    assert [(load.cache_bytes, load.kv_bytes) for load in sent] == [(30, 20)] * 2


@pytest.mark.parametrize("rank", [1, 2])
async def test_end_of_a_rank_is_the_end_of_the_group(rank: int) -> None:
    async with ranks() as running:
        await running.loaded()
        kill_worker(running.pids[rank])
        event, reason = await running.reports.next(tuple)
        assert (event, reason) == (Event.LINK_LOST, f"rank {rank}: killed by SIGKILL")
        running.group.kill()
        assert await running.ended() == -signal.SIGKILL


async def test_rank_that_was_killed_is_named_before_one_that_lost_its_neighbour() -> None:
    async with ranks() as running:
        await running.loaded()
        kill_worker(running.pids[2])
        await running.reports.next(tuple)
        neighbour: Any = SimpleNamespace(returncode=74)
        follower = running.group._followers[0]
        kept = follower.launched
        assert kept is not None
        follower.launched = replace(kept, process=neighbour)
        assert running.group.failure == "rank 2: killed by SIGKILL"
        follower.launched = kept


async def test_garbage_of_a_rank_is_garbage_of_the_group() -> None:
    async with ranks() as running:
        await running.loaded()
        kill_worker(running.pids[1], signal.SIGUSR1)
        event, reason = await running.reports.next(tuple)
        assert event is Event.GARBAGE
        assert reason.startswith("rank 1: ")


async def test_silence_of_a_rank_is_a_stall_of_the_group() -> None:
    async with ranks(Timings(ping=0.01, stall=0.1)) as running:
        await running.loaded()
        kill_worker(running.pids[1], signal.SIGSTOP)
        event, reason = await running.reports.next(tuple)
        assert event is Event.STALLED
        assert reason.startswith("rank 1 is silent for ")


async def test_end_of_rank_0_ends_the_others() -> None:
    async with ranks() as running:
        await running.loaded()
        kill_worker(running.pids[0])
        assert await running.ended() == -signal.SIGKILL


async def test_pong_has_the_memory_of_all_ranks() -> None:
    async with ranks(launcher=scripted("--resident", "1000")) as running:
        await running.loaded()
        pong = await running.pong()
        assert pong.resident_bytes == 3000
        assert [status.pid for status in running.group.ranks] == running.pids


async def test_first_pong_comes_once_every_rank_has_told_its_memory_loaded() -> None:
    async with ranks(launcher=scripted("--resident", "1000")) as running:
        assert running.launched is not None
        await running.loaded()
        await running.pong()
        leader = running.launched.connection.callbacks.on_report
        leader(Loaded(None, 9))
        leader(Pong(1, 0, 0, 0, 1000, 0))
        await running.reports.next(Loaded)
        assert running.reports.queue.empty()
        assert (await running.pong()).resident_bytes == 3000


async def test_kv_is_reported_of_all_ranks_together() -> None:
    async with ranks() as running:
        assert running.launched is not None
        await running.loaded()
        report = running.launched.connection.callbacks.on_report
        report(Loaded(None, 9, kv=KvCost(5, [KvGrowth(7), KvGrowth(2, 64)])))
        report(CacheState(1, "", 0, 1, 0, bytes=20, capacity=30))
        loaded = await running.reports.next(Loaded)
        assert loaded.kv == KvCost(15, [KvGrowth(21), KvGrowth(6, 64)])
        cache = await running.reports.next(CacheState)
        assert (cache.bytes, cache.capacity) == (60, 90)


async def test_failed_start_of_a_rank_leaves_no_process() -> None:
    reports = Reports()
    pids: list[int] = []
    others = iter([True, False])

    async def launch(callbacks: ConnectionCallbacks) -> Launched:
        launched = await scripted()(callbacks)
        pids.append(launched.process.pid)
        return launched

    async def launch_rank(callbacks: ConnectionCallbacks, host: HostConfig) -> Launched:
        assert host.is_here
        if not next(others):
            raise OSError("no more processes")
        return await launch(callbacks)

    pause = PauseDetector(asyncio.get_running_loop(), QUICK.ping)
    group = RankGroup(reports.callbacks, THREE, QUICK, pause)
    with pytest.raises(OSError, match="no more processes"):
        await group.start(launch, launch_rank)
    assert not any(map(alive, pids))
    assert len(pids) == 1  # rank 0 is started last
    pause.close()
