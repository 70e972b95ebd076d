"""One process of a child, from its launch to its end.

An incarnation owns the process, the pipe and the reports of the process. Each event goes to the
listener with the number of the incarnation.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mlx_worker.supervisor.fingerprint import note_replaced_package
from mlx_worker.supervisor.process.connection import ConnectionCallbacks
from mlx_worker.supervisor.process.crash_report import ProcessExit
from mlx_worker.supervisor.process.launch.process import describe_exit
from mlx_worker.supervisor.process.launch.stderr import device_error
from mlx_worker.supervisor.process.liveness import Liveness
from mlx_worker.supervisor.process.states import Event
from mlx_worker.supervisor.process.status import ChildStatus
from mlx_worker.wire.kv_blocks import KvBlocks
from mlx_worker.wire.messages import PROTOCOL, Hello, Loaded, LoadFailed, LoadProgress, Pong
from mlx_worker.wire.prompt_cache import CacheState, DiskState

if TYPE_CHECKING:
    from mlx_worker.supervisor.process.connection import ChildConnection, ChildReport
    from mlx_worker.supervisor.process.host import ChildContext
    from mlx_worker.supervisor.process.launch.group import RankGroup
    from mlx_worker.supervisor.process.launch.launcher import Launched
    from mlx_worker.supervisor.process.launch.process import ChildProcess
    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.messages import Load

STDERR_TIMEOUT = 1.0
"""Seconds in which the pipe of a process that has ended is read to its end."""


class IncarnationListener(Protocol):
    """The writer of the child's state."""

    def on_event(self, event: Event, reason: str, incarnation: int) -> None:
        """Handle an event of one process."""

    def on_load_progress(self) -> None:
        """Handle that the process has loaded more of the model."""

    def on_idle(self) -> None:
        """Handle the end of the last open request."""


class Incarnation:
    """One process of a child, by its number; 0 stands for no process yet.

    `status` has what the process has reported. `connection` is None before the launch, and again
    once the pipe is closed.
    """

    def __init__(self, number: int, context: ChildContext, listener: IncarnationListener) -> None:
        self.number = number
        self.status = ChildStatus()
        self.exit: ProcessExit | None = None
        self.connection: ChildConnection | None = None
        self._context = context
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._measured: Pong | None = None
        self._disk: DiskState | None = None  # also after the state is forgotten
        self._keeps_kv = False
        self._process: ChildProcess | None = None
        self._group: RankGroup | None = None
        self._liveness: Liveness | None = None
        self._reaper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Launch the process. Raises OSError if the system refuses one."""
        callbacks = ConnectionCallbacks(
            on_report=self._on_report,
            on_end=self._report,
            on_idle=self._listener.on_idle,
            on_step=self._context.token_stats.on_step,
        )
        launched = await self._context.launch(callbacks)
        self._process, self.connection = launched.process, launched.connection
        self._group = launched.group
        self.status = replace(self.status, pid=launched.process.pid, env=launched.env)
        launched.stderr_tail.attach_model(self._context.model, self._context.lines)
        if self._group is not None:
            self._group.attach_model(self._context.model, self._context.lines)
        self._reaper = asyncio.create_task(self._reap(launched))
        if launched.hello is not None:
            self._on_report(launched.hello)

    # --- the process and its pipe ---

    @property
    def is_running(self) -> bool:
        """True if there is a process that has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def is_connected(self) -> bool:
        """True if messages reach the process."""
        return self.connection is not None and self.connection.is_up

    @property
    def open_ids(self) -> int:
        """Return the number of requests that the process has not answered to their end."""
        return self.connection.open_ids if self.connection else 0

    def send(self, message: WireMessage) -> None:
        """Send a message without an answer of its own. Do nothing if the pipe is closed."""
        if self.connection is not None:
            self.connection.send(message)

    def load(self, load: Load) -> None:
        """Have the process load a model."""
        self._keeps_kv = load.disk is not None
        if self._group is not None:
            self._group.load(load)
        else:
            self.send(load)

    def on_ready(self) -> None:
        """Note how long the model took to load, and judge the process by its progress from now."""
        self.status = replace(self.status, load_seconds=self._loop.time() - self._started_at)
        if self.connection is not None:
            stalled = partial(self._report, Event.STALLED)
            context = self._context
            self._liveness = Liveness(self.connection, context.timings, context.pause, stalled)

    def forget_status(self) -> None:
        """Forget what the process has reported: it does not serve any more."""
        self.status = ChildStatus()

    def kill(self) -> None:
        """End the process at once, if there is one."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Close the pipe: the process reads EOF and leaves."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
        self._end_liveness()

    def leave(self, seconds: float) -> None:
        """Have the process write its KV to disk and end, within `seconds`.

        The pipe of a process without KV on disk is closed instead.
        """
        if self._keeps_kv and self.connection is not None:
            self.connection.leave(seconds)
            self._end_liveness()
        else:
            self.close()

    def _end_liveness(self) -> None:
        if self._liveness is not None:
            self._liveness.close()
            self._liveness = None

    # --- what the process reports ---

    def _report(self, event: Event, reason: str = "") -> None:
        self._listener.on_event(event, reason, self.number)

    def _on_report(self, report: ChildReport) -> None:
        match report:
            case Hello():
                self._on_hello(report)
            case LoadProgress():
                self.status = replace(self.status, loading=report)
                self._listener.on_load_progress()
            case Loaded():
                self.status = replace(self.status, loaded=report)
                self._report(Event.LOADED)
            case LoadFailed():
                event = Event.CANNOT_LOAD if report.permanent else Event.LOAD_FAILED
                self._report(event, report.reason)
            case CacheState():
                self.status = replace(self.status, cache=report)
            case DiskState():
                self._on_disk_state(report)
            case KvBlocks():
                self._context.kv_log.on_blocks(report)
            case Pong():
                self._on_pong(report)

    def _on_hello(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            wrong = (
                f"the model's process speaks protocol {hello.protocol}, not {PROTOCOL}: "
                "mlx-worker was replaced while this node runs; restart the node"
            )
            self._report(Event.GARBAGE, wrong)
            return
        self.status = replace(self.status, versions=hello.versions, working_set=hello.working_set)
        note_replaced_package(self._context.events, self._context.model, hello.versions)
        self._report(Event.HELLO)

    def _on_disk_state(self, report: DiskState) -> None:
        self._context.disk_totals.on_report(report, self._disk)
        self._disk = report
        self.status = replace(self.status, disk=report)

    def _on_pong(self, pong: Pong) -> None:
        if self.status.loaded is None:
            return  # the answer to a ping of the spare pool: the process has no model yet
        if self.status.pong is None:
            self._context.host.on_measured_at_start(pong.resident_bytes)
        elif self._liveness is not None:
            self._liveness.on_pong(self.status.pong, pong)
        ranks = self._group.ranks if self._group is not None else ()
        self.status = replace(self.status, pong=pong, ranks=ranks)
        self._measured = pong

    # --- its end ---

    async def _reap(self, launched: Launched) -> None:
        code = await launched.process.wait()
        how = describe_exit(code)
        if self._group is not None:
            # Rank 0 cannot go on without the others, and ends too.
            how = self._group.failure or how
        # The pipes may still hold what the process wrote last, and why it ended.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STDERR_TIMEOUT):
                await launched.connection.ended.wait()
        lines = await launched.stderr_tail.complete(STDERR_TIMEOUT)
        in_flight = self._context.host.take_lost_requests()
        if code > 0 and not in_flight and self._measured is None:
            # The process never worked, so that its last line holds no words of a request.
            how = launched.stderr_tail.cause(how)
        self.exit = ProcessExit(
            how,
            time.time() * 1000,
            lines,
            pid=launched.process.pid,
            code=code,
            uptime=self._loop.time() - self._started_at,
            in_flight=in_flight,
            measured=self._measured,
        )
        error = device_error(lines)
        if self._context.device_errors.count_end(error, in_flight):
            self._report(Event.DEVICE_LOST, f"needs reboot: {error}, process after process")
        else:
            cause = error or launched.stderr_tail.computation_failure
            self._report(Event.EXITED, f"{how}: {cause}" if cause else how)
