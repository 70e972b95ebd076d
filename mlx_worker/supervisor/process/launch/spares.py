"""Spare processes: everything imported, no model yet.

Nearly all of a child's start is imports. A spare process has done its imports, so that a child that
takes a spare is ready in the time that its weights take. A spare says hello to the pool; the child
that takes the spare gets that hello, and all reports from then on. Spares are prepared while no
child changes its state, one at a time: importing beside a model that loads would slow that model
down. A spare that dies is replaced, with the backoff of any other child. At the end of the node the
pool closes the pipes of its spares, which then end.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlx_worker.supervisor.process.connection import ConnectionCallbacks
from mlx_worker.supervisor.process.launch.launcher import launch_rank
from mlx_worker.supervisor.process.launch.process import NO_VARIABLES, describe_exit
from mlx_worker.wire.messages import Hello, Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.config.schema import HostConfig
    from mlx_worker.supervisor.process.connection import ChildReport
    from mlx_worker.supervisor.process.launch.launcher import Launched, Launcher
    from mlx_worker.supervisor.process.pause import PauseDetector
    from mlx_worker.supervisor.process.restart_policy import RestartWindow
    from mlx_worker.supervisor.process.states import Event

log = logging.getLogger(__name__)

MAX_UNANSWERED_PINGS = 1
"""A spare with more unanswered pings is given to no child."""


@dataclass(frozen=True, slots=True)
class StandbyPolicy:
    """How many spares the pool keeps, and how it checks them, in seconds.

    A spare is prepared when no child has changed its state for `calm`. Each is pinged every `ping`,
    and replaced if it reports nothing for `silence`, or no hello within `start`. At the node's end
    the spares have `stop` to end.
    """

    spares: int = 1
    calm: float = 1.0
    ping: float = 1.0
    silence: float = 15.0
    start: float = 120.0
    stop: float = 5.0


class SpareProcess:
    """One process without a model, from its start until its end or until a child takes it."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.launched: Launched | None = None
        self.reported_at = asyncio.get_running_loop().time()
        self._pings = 0
        self._unanswered_pings = 0

    async def start(self, launcher: Launcher) -> Launched:
        """Start the process. Raises OSError if the system refuses one."""
        callbacks = ConnectionCallbacks(self._on_report, self._on_end, lambda: None, lambda _: None)
        self.launched = await launcher(callbacks)
        return self.launched

    @property
    def pid(self) -> int | None:
        """Return the process id; None before there is a process."""
        return self.launched.process.pid if self.launched else None

    @property
    def is_usable(self) -> bool:
        """True if a child may take the process, even one that is still importing.

        A process that has just died may pass as usable; the child that takes it sees its end.
        """
        up = self.launched is not None and self.launched.connection.is_up
        return up and self._unanswered_pings <= MAX_UNANSWERED_PINGS

    def ping(self) -> None:
        """Send a ping, once the process can answer it."""
        if self.launched is not None and self.hello is not None:
            self._pings += 1
            self._unanswered_pings += 1
            self.launched.connection.send(Ping(self._pings))

    def hand_over(self, callbacks: ConnectionCallbacks) -> Launched:
        """Give the process to a child: its reports go to these callbacks from now on."""
        assert self.launched is not None
        self.launched.connection.callbacks = callbacks
        return replace(self.launched, hello=self.hello)

    def end(self, *, now: bool) -> None:
        """Close the pipe, so that the process ends by itself; kill the process if `now`."""
        if self.launched is not None:
            self.launched.connection.close()
            if now:
                self.launched.process.kill()

    def _on_report(self, report: ChildReport) -> None:
        match report:
            case Hello():
                self.hello = report
            case Pong():
                self._unanswered_pings = 0
            case _:
                return
        self.reported_at = asyncio.get_running_loop().time()

    def _on_end(self, event: Event, reason: str) -> None:
        """Kill a process whose pipe has closed, or that sends garbage."""
        log.debug("a spare child: %s: %s", event, reason)
        self.end(now=True)


class SparePool:
    """The spares of a node. `is_unsettled` says whether a child starts a process or is about to."""

    def __init__(
        self,
        launcher: Launcher,
        policy: StandbyPolicy,
        restarts: RestartWindow,
        is_unsettled: Callable[[], bool],
        pause: PauseDetector,
    ) -> None:
        self._launcher = launcher
        self._policy = policy
        self._restarts = restarts
        self._is_unsettled = is_unsettled
        self._pause = pause
        self._loop = asyncio.get_running_loop()
        self._prepare_from = self._loop.time() + policy.calm
        self._spares: dict[SpareProcess, asyncio.Task[None]] = {}
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._maintain(), name="spares") if policy.spares else None

    @property
    def wanted(self) -> int:
        """Return the number of spares that the pool keeps."""
        return self._policy.spares

    @property
    def waiting(self) -> list[int]:
        """Return the process ids of the spares that have everything imported."""
        usable = (spare for spare in self._spares if spare.hello and spare.is_usable)
        return [spare.pid for spare in usable if spare.pid]

    async def launch(
        self, callbacks: ConnectionCallbacks, env: Mapping[str, str] = NO_VARIABLES
    ) -> Launched:
        """Return a spare, or else a new process. Raises OSError if the system refuses one.

        A model with environment variables gets a new process: those of a spare are set already.
        """
        if env:
            return await self._launcher(callbacks, env)
        usable = [spare for spare in self._spares if spare.is_usable]
        spare = next((spare for spare in usable if spare.hello), usable[0] if usable else None)
        if spare is None:
            return await self._launcher(callbacks)
        self._spares.pop(spare).cancel()
        return spare.hand_over(callbacks)

    async def launch_rank(
        self, callbacks: ConnectionCallbacks, host: HostConfig, env: Mapping[str, str]
    ) -> Launched:
        """Start another rank of a model, behind its keeper. Raises OSError if that fails."""
        return await launch_rank(self._launcher, callbacks, host, env)

    def on_state_change(self) -> None:
        """Prepare no spare for a while: a child has changed its state."""
        self._prepare_from = max(self._prepare_from, self._loop.time() + self._policy.calm)

    async def close(self) -> None:
        """End all spares; kill those that do not end when their pipe closes."""
        self._closing.set()
        if self._task is not None:
            # A process that is being started is waited for: after a cancel no task would end it.
            await asyncio.wait({self._task}, timeout=self._policy.stop)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        spares, self._spares = self._spares, {}
        for spare in spares:
            spare.end(now=False)
        if spares:
            _, left = await asyncio.wait(spares.values(), timeout=self._policy.stop)
            for spare in spares:
                spare.end(now=True)
            if left:
                await asyncio.wait(left, timeout=self._policy.stop)

    # --- inside ---

    async def _maintain(self) -> None:
        while not self._closing.is_set():
            for spare in list(self._spares):
                self._check(spare)
            if (
                len(self._spares) < self._policy.spares
                and self._loop.time() >= self._prepare_from
                and not self._is_unsettled()
            ):
                await self._prepare()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._policy.ping)

    def _check(self, spare: SpareProcess) -> None:
        limit = self._policy.silence if spare.hello else self._policy.start
        if self._loop.time() - self._pause.after_last_pause(spare.reported_at) > limit:
            spare.end(now=True)
        else:
            spare.ping()

    async def _prepare(self) -> None:
        spare = SpareProcess()
        try:
            launched = await spare.start(self._launcher)
        except OSError as error:
            self._on_died(str(error))
            return
        self._spares[spare] = asyncio.create_task(self._watch(spare, launched))

    async def _watch(self, spare: SpareProcess, launched: Launched) -> None:
        """Wait for the end of a spare. The task is cancelled when a child takes the spare."""
        code = await launched.process.wait()
        spare.end(now=False)
        await launched.stderr_tail.complete(self._policy.stop)
        if self._spares.pop(spare, None) is not None:
            how = describe_exit(code)
            self._on_died(launched.stderr_tail.cause(how) if code > 0 else how)

    def _on_died(self, how: str) -> None:
        now = self._loop.time()
        delay = self._restarts.count_end(now)
        # No request waits for a spare: the pool never gives up, but retries seldom.
        self._prepare_from = now + (self._restarts.period if delay is None else delay)
        log.warning("a spare child: %s; the next one in %.1f s", how, self._prepare_from - now)
