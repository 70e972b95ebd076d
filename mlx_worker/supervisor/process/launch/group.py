"""Several processes that compute one model, as one process of its child.

Rank 0 is the child's process and serves the requests. Each other rank is behind a keeper. The group
starts as one, when all have said hello, and ends as one: the end, the garbage or the silence of any
rank is the end of the group's pipe, and what ends the group ends all its processes.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.supervisor.process.connection import ConnectionCallbacks
from mlx_worker.supervisor.process.launch.keeper import SIGNALLED
from mlx_worker.supervisor.process.launch.process import describe_exit
from mlx_worker.supervisor.process.states import Event
from mlx_worker.supervisor.process.status import RankStatus
from mlx_worker.wire.messages import (
    PROTOCOL,
    Gathering,
    Hello,
    Loaded,
    Ping,
    Pong,
)
from mlx_worker.wire.prompt_cache import CacheState
from mlx_worker.wire.rank_place import RankPlace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.supervisor.process.connection import ChildReport
    from mlx_worker.supervisor.process.launch.launcher import Launch, Launched
    from mlx_worker.supervisor.process.launch.process import ChildProcess
    from mlx_worker.supervisor.process.launch.stderr import StderrLine
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.pause import PauseDetector
    from mlx_worker.supervisor.ring_buffer import RingBuffer
    from mlx_worker.wire.messages import Load
    from mlx_worker.wire.rank_place import Split

LOOPBACK: Final = "127.0.0.1"

EXPLAINED_WITHIN: Final = 0.5
"""Seconds in which the process of a rank that has closed its pipe ends, and tells how."""

EOF_WAIT: Final = 1.0
"""Seconds in which a keeper ends its rank and itself once its pipe is closed."""


class Follower:
    """A rank other than 0, from its launch to its end."""

    def __init__(self, rank: int, launched: Launched) -> None:
        self.rank = rank
        self.process = launched.process
        self.connection = launched.connection
        self.stderr_tail = launched.stderr_tail
        self.hello: Hello | None = None
        self.pong: Pong | None = None
        self.heard_at = asyncio.get_running_loop().time()
        self._is_killed = False

    def end(self) -> None:
        """Close the pipe: the keeper ends the rank, and itself."""
        self.connection.close()

    def kill(self) -> None:
        """End a keeper that does not end by itself."""
        self._is_killed |= self.process.returncode is None
        self.process.kill()

    @property
    def has_ended_itself(self) -> bool:
        """True if the rank's process has an exit status of its own: no signal ended it."""
        return 0 < (self.process.returncode or 0) < SIGNALLED

    @property
    def failure(self) -> str:
        """Return how the rank ended by itself; "" while it runs, or if it was ended."""
        code = self.process.returncode
        if not code or self._is_killed:
            return ""
        how = describe_exit(code if code < SIGNALLED else SIGNALLED - code)
        cause = self.stderr_tail.computation_failure
        return f"rank {self.rank}: {how}: {cause}" if cause else f"rank {self.rank}: {how}"


class RankGroup:
    """The processes of one model. `callbacks` are told of the group as of one process.

    `ranks` are the latest reports of all, () before rank 0 has reported. The group pings a rank as
    often as a child is pinged; the keeper of a rank ends it when the front is silent. Once the
    model is loaded, a rank may be silent for as long as a child may stall.
    """

    def __init__(
        self,
        callbacks: ConnectionCallbacks,
        ranks: int,
        split: Split,
        timings: Timings,
        pause: PauseDetector,
    ) -> None:
        self._callbacks = callbacks
        self._ranks = ranks
        self._split: Split = split
        self._timings = timings
        self._pause = pause
        self._secret = secrets.token_hex(16)
        self._loop = asyncio.get_running_loop()
        self.ranks: tuple[RankStatus, ...] = ()
        self._leader: Launched | None = None
        self._hello: Hello | None = None
        self._followers: list[Follower] = []
        self._load: Load | None = None
        self._is_loaded = False
        self._has_ended = False
        self._pings = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the start ---

    async def start(self, launch: Launch, launch_rank: Launch) -> Launched:
        """Start all processes, and return them as one. Raises OSError if the system refuses one."""
        callbacks = replace(self._callbacks, on_report=self._on_leader_report, on_end=self._end)
        self._leader = leader = await launch(callbacks)
        try:
            for rank in range(1, self._ranks):
                await self._start_follower(rank, launch_rank)
        except BaseException:
            self.kill()
            leader.connection.close()
            raise
        if leader.hello is not None:
            self._on_leader_report(leader.hello)
        self._ping()
        return replace(leader, process=self, hello=None, group=self)

    async def _start_follower(self, rank: int, launch_rank: Launch) -> None:
        callbacks = ConnectionCallbacks(
            on_report=lambda report: self._on_follower_report(follower, report),
            on_end=lambda event, reason: self._on_follower_end(follower, event, reason),
            on_idle=lambda: None,
            on_step=lambda _: None,
        )
        follower = Follower(rank, await launch_rank(callbacks))
        self._followers.append(follower)

    def attach_model(self, model: str, lines: RingBuffer[StderrLine]) -> None:
        """Keep what the ranks write to stderr among the lines of their model."""
        for follower in self._followers:
            follower.stderr_tail.attach_model(model, lines)

    def load(self, load: Load) -> None:
        """Have all ranks load the model: rank 0 first, which tells where the others find it."""
        assert self._leader is not None, "the group was started"
        self._load = load
        self._leader.connection.send(self._load_of(0, ""))

    def _load_of(self, rank: int, leader: str) -> Load:
        assert self._load is not None, "rank 0 was told to load before it gathers the others"
        # All ranks are on this host, and share the memory that the model may have.
        return msgspec.structs.replace(
            self._load,
            place=RankPlace(rank, self._ranks, self._split, LOOPBACK, self._secret, leader),
            cache_bytes=self._load.cache_bytes // self._ranks,
            kv_bytes=self._load.kv_bytes // self._ranks,
        )

    # --- reports ---

    def _on_leader_report(self, report: ChildReport) -> None:
        match report:
            case Hello():
                self._hello = report
                self._report_hello()
            case Gathering():
                for follower in self._followers:
                    address = f"{LOOPBACK}:{report.port}"
                    follower.connection.send(self._load_of(follower.rank, address))
            case Pong():
                statuses = tuple(self._statuses(report))
                if len(statuses) < self._ranks:
                    return  # the memory of a rank is not known yet
                self.ranks = statuses
                resident = sum(rank.resident_bytes for rank in self.ranks)
                device = sum(rank.device_bytes for rank in self.ranks)
                whole = msgspec.structs.replace(
                    report, resident_bytes=resident, device_bytes=device
                )
                self._callbacks.on_report(whole)
            case Loaded():
                self._is_loaded = True
                for follower in self._followers:
                    follower.pong = None  # of a process that was loading
                # Rank 0 knows of its own KV, and shares the memory of this host as in `_load_of`.
                kv = report.kv.times(self._ranks)
                self._callbacks.on_report(msgspec.structs.replace(report, kv=kv))
            case CacheState():
                nbytes, capacity = report.bytes * self._ranks, report.capacity * self._ranks
                whole_cache = msgspec.structs.replace(report, bytes=nbytes, capacity=capacity)
                self._callbacks.on_report(whole_cache)
            case _:
                self._callbacks.on_report(report)

    def _statuses(self, of_leader: Pong) -> Iterator[RankStatus]:
        yield RankStatus(0, self.pid, of_leader.resident_bytes, of_leader.device_bytes)
        for follower in self._followers:
            hello, pong = follower.hello, follower.pong
            if hello is not None and pong is not None:
                nbytes = (pong.resident_bytes, pong.device_bytes)
                yield RankStatus(follower.rank, hello.pid, *nbytes)

    def _on_follower_report(self, follower: Follower, report: ChildReport) -> None:
        follower.heard_at = self._loop.time()
        match report:
            case Hello() if report.protocol != PROTOCOL:
                self._end(Event.GARBAGE, f"rank {follower.rank}: protocol {report.protocol}")
            case Hello():
                follower.hello = report
                self._report_hello()
            case Pong():
                follower.pong = report
            case _:
                pass

    def _report_hello(self) -> None:
        """Report the hello of rank 0 once all ranks have said theirs."""
        greeted = sum(follower.hello is not None for follower in self._followers)
        if self._hello is not None and greeted == self._ranks - 1:
            hello, self._hello = self._hello, None
            self._callbacks.on_report(hello)

    # --- the end ---

    def _ping(self) -> None:
        """Ping the ranks, and end the group for one that is silent."""
        self._pings += 1
        now = self._loop.time()
        for follower in self._followers:
            silent = now - self._pause.after_last_pause(follower.heard_at)
            if self._is_loaded and silent > self._timings.stall:
                self._end(Event.STALLED, f"rank {follower.rank} is silent for {silent:.1f} s")
                return
            if follower.hello is not None:
                follower.connection.send(Ping(self._pings))
        self._timer = self._loop.call_later(self._timings.ping, self._ping)

    def _on_follower_end(self, follower: Follower, event: Event, reason: str) -> None:
        if event is Event.GARBAGE:  # no end of a process explains that
            self._end(event, f"rank {follower.rank}: {reason}")
            return
        task = self._loop.create_task(self._explain(follower, event, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _explain(self, follower: Follower, event: Event, reason: str) -> None:
        """End the group for a rank whose pipe was closed, with the reason that its end gives."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(_ended(follower.process)), EXPLAINED_WITHIN)
            await follower.stderr_tail.complete(EXPLAINED_WITHIN)
        self._end(event, self.failure or f"rank {follower.rank}: {reason}")

    def _end(self, event: Event, reason: str) -> None:
        """Report the end of the group, once."""
        if not self._has_ended:
            self._has_ended = True
            self._callbacks.on_end(event, reason)

    # --- the process of the child ---

    @property
    def pid(self) -> int:
        """Return the process id of rank 0."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit code of rank 0; None while a process of the group runs."""
        others = (follower.process.returncode for follower in self._followers)
        return None if None in others else self._process.returncode

    @property
    def failure(self) -> str:
        """Return how a rank other than 0 ended, where one did by itself; else ""."""
        failed = [other for other in self._followers if other.failure]
        # A rank whose neighbour is gone ends itself: it is the consequence, not the cause.
        failed.sort(key=lambda other: other.has_ended_itself)
        return failed[0].failure if failed else ""

    @property
    def stderr(self) -> asyncio.StreamReader:
        """Return the stderr of rank 0."""
        return self._process.stderr

    async def wait(self) -> int:
        """Wait for the end of rank 0, end the other ranks, and return the exit code of rank 0."""
        code = await self._process.wait()
        self._end_followers()
        for follower in self._followers:
            await follower.process.wait()
        return code

    def kill(self) -> None:
        """End all processes."""
        self._process.kill()
        self._end_followers()

    def _end_followers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for follower in self._followers:
            follower.end()
            self._loop.call_later(EOF_WAIT, follower.kill)

    @property
    def _process(self) -> ChildProcess:
        assert self._leader is not None, "the group was started"
        return self._leader.process


async def _ended(process: ChildProcess) -> int:
    return await process.wait()
