"""Spare children: everything imported, no model yet.

Nearly all of a child's start is imports; a spare has them behind it, so that a child which takes
one comes back, or comes up on demand, in the time that its weights take. A spare says hello to the
standby; who takes it hears that hello as its own, and from there on all else. Spares are prepared
when things are calm, one at a time: importing beside a model that comes up would slow that one
down. One that dies is replaced, with the backoff of any other child. They end with the node, by
the closing of their pipes. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlx_worker.supervisor.process.connection import Owner
from mlx_worker.supervisor.process.process import NO_VARIABLES, how_it_ended
from mlx_worker.wire.messages import Hello, Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.supervisor.process.connection import Fact
    from mlx_worker.supervisor.process.launcher import Launched, Launcher
    from mlx_worker.supervisor.process.pause import PauseDetector
    from mlx_worker.supervisor.process.restart_policy import RestartWindow
    from mlx_worker.supervisor.process.states import Event

log = logging.getLogger(__name__)

DOUBTED = 1
"""A spare that owes more answers to pings than this is given to nobody."""


@dataclass(frozen=True, slots=True)
class StandbyPolicy:
    """How many spares there are to be, and how they are looked after, in seconds.

    One is prepared when no child has changed its state for `calm`; every `ping` each is asked for
    a sign of life, and one without any for `silence`, or without its hello for `start`, is
    replaced. At the node's end they have `stop` to leave.
    """

    spares: int = 1
    calm: float = 1.0
    ping: float = 1.0
    silence: float = 15.0
    start: float = 120.0
    stop: float = 5.0


def _without_work(on_fact: Callable[[Fact], None], on_end: Callable[[Event, str], None]) -> Owner:
    """The owner of a process that has no work."""
    return Owner(on_fact, on_end, lambda: None, lambda _: None)


class Spare:
    """One process without a model, from its start to its end or its taking."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.launched: Launched | None = None
        self.heard_at = asyncio.get_running_loop().time()
        self._asked = 0
        self._owed = 0

    async def start(self, launcher: Launcher) -> Launched:
        """Its process. Raises OSError where it cannot be."""
        self.launched = await launcher(_without_work(self._hear, self._ended))
        return self.launched

    @property
    def pid(self) -> int | None:
        """Its process, once there is one."""
        return self.launched.process.pid if self.launched else None

    @property
    def fit(self) -> bool:
        """Would whoever takes it be well served? One that is still importing is ahead of a new one.

        A process that has just died may pass for fit; who takes it then sees its end.
        """
        up = self.launched is not None and self.launched.link.is_up
        return up and self._owed <= DOUBTED

    def ping(self) -> None:
        """Ask for a sign of life, once it can give one."""
        if self.launched is not None and self.hello is not None:
            self._asked += 1
            self._owed += 1
            self.launched.link.send(Ping(self._asked))

    def give(self, owner: Owner) -> Launched:
        """Hand it over: from here on the owner is told."""
        assert self.launched is not None
        self.launched.link.owner = owner
        return replace(self.launched, hello=self.hello)

    def end(self, *, now: bool) -> None:
        """Close its pipe: it leaves by itself; `now`: kill it."""
        if self.launched is not None:
            self.launched.link.close()
            if now:
                self.launched.process.kill()

    def _hear(self, fact: Fact) -> None:
        match fact:
            case Hello():
                self.hello = fact
            case Pong():
                self._owed = 0
            case _:
                return
        self.heard_at = asyncio.get_running_loop().time()

    def _ended(self, event: Event, reason: str) -> None:
        """Its pipe is closed, or nothing sensible comes from it."""
        log.debug("a spare child: %s: %s", event, reason)
        self.end(now=True)


class Standby:
    """The spares of a node. `busy` says whether a child is on its way up or about to be."""

    def __init__(
        self,
        launcher: Launcher,
        policy: StandbyPolicy,
        deaths: RestartWindow,
        busy: Callable[[], bool],
        pause: PauseDetector,
    ) -> None:
        self._launcher = launcher
        self._policy = policy
        self._deaths = deaths
        self._busy = busy
        self._pause = pause
        self._loop = asyncio.get_running_loop()
        self._not_before = self._loop.time() + policy.calm
        self._spares: dict[Spare, asyncio.Task[None]] = {}
        self._closing = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(), name="standby") if policy.spares else None

    @property
    def wanted(self) -> int:
        """How many spares there are to be."""
        return self._policy.spares

    @property
    def waiting(self) -> list[int]:
        """The process ids of those that have everything imported."""
        return [it.pid for it in self._spares if it.hello and it.fit and it.pid]

    async def launch(self, owner: Owner, env: Mapping[str, str] = NO_VARIABLES) -> Launched:
        """A spare where there is one, else a new process. Raises OSError where none can be.

        A model with variables of its own gets a new process: those of a spare are set already.
        """
        if env:
            return await self._launcher(owner, env)
        fit = [it for it in self._spares if it.fit]
        spare = next((it for it in fit if it.hello), fit[0] if fit else None)
        if spare is None:
            return await self._launcher(owner)
        self._spares.pop(spare).cancel()
        return spare.give(owner)

    def stirred(self) -> None:
        """A child has changed its state: what is missing may wait until they are calm."""
        self._not_before = max(self._not_before, self._loop.time() + self._policy.calm)

    async def close(self) -> None:
        """End all spares. Whoever does not leave when its pipe closes is killed."""
        self._closing.set()
        if self._keeper is not None:
            # A process that is being started is waited for: cancelled, it would be nobody's.
            await asyncio.wait({self._keeper}, timeout=self._policy.stop)
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        spares, self._spares = self._spares, {}
        for spare in spares:
            spare.end(now=False)
        if spares:
            _, left = await asyncio.wait(spares.values(), timeout=self._policy.stop)
            for spare in spares:
                spare.end(now=True)
            if left:
                await asyncio.wait(left, timeout=self._policy.stop)

    # --- the keeper ---

    async def _keep(self) -> None:
        while not self._closing.is_set():
            for spare in list(self._spares):
                self._look_after(spare)
            if (
                len(self._spares) < self._policy.spares
                and self._loop.time() >= self._not_before
                and not self._busy()
            ):
                await self._prepare()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._policy.ping)

    def _look_after(self, spare: Spare) -> None:
        patience = self._policy.silence if spare.hello else self._policy.start
        if self._loop.time() - self._pause.since(spare.heard_at) > patience:
            spare.end(now=True)
        else:
            spare.ping()

    async def _prepare(self) -> None:
        spare = Spare()
        try:
            launched = await spare.start(self._launcher)
        except OSError as error:
            self._died(str(error))
            return
        self._spares[spare] = asyncio.create_task(self._watch(spare, launched))

    async def _watch(self, spare: Spare, launched: Launched) -> None:
        """Wait for its end. Cancelled when it is taken."""
        code = await launched.process.wait()
        spare.end(now=False)
        await launched.words.complete(self._policy.stop)
        if self._spares.pop(spare, None) is not None:
            how = how_it_ended(code)
            self._died(launched.words.cause(how) if code > 0 else how)

    def _died(self, how: str) -> None:
        now = self._loop.time()
        delay = self._deaths.ended(now)
        # Nobody waits for a spare: it is never given up, only seldom tried.
        self._not_before = now + (self._deaths.period if delay is None else delay)
        log.warning("a spare child: %s; the next one in %.1f s", how, self._not_before - now)
