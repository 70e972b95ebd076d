"""What is done when the models' processes take more than the node's limit.

`memory` decides; here it is carried out, each step said once in the log. [front]
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mlx_worker.config.sizes import in_words
from mlx_worker.errors import MemoryFull
from mlx_worker.supervisor.memory.placement import COME_BACK, tenant_of
from mlx_worker.supervisor.memory.policy import Ladder, Rung, rest, trims, who_grew
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlx_worker.supervisor.event_log import Events
    from mlx_worker.supervisor.node import Served

AT_REST = (State.READY, State.STOPPED, State.FAILED)


class Pressure:
    """Compares what is measured with `limit`, in bytes; `trim` has a cache give bytes back."""

    def __init__(
        self,
        limit: int,
        everybody: Callable[[], Collection[Served]],
        trim: Callable[[Served, int], None],
        events: Events,
    ) -> None:
        self._events = events
        self.limit = limit
        self._everybody = everybody
        self._trim = trim
        self._ladder = Ladder()
        self._looked = asyncio.Event()

    @property
    def used(self) -> int:
        """Bytes that the processes took when they last said so."""
        return sum(tenant_of(it).used or 0 for it in self._everybody())

    @property
    def rung(self) -> Rung:
        """How far it has come."""
        return self._ladder.rung

    def refusal(self) -> MemoryFull | None:
        """Why new work is refused; None: it is not."""
        # A process that has ended since the last look has given its memory back already.
        if not self._ladder.refuses or self.used - self._returnable() <= self.limit:
            return None
        return MemoryFull(f"the models take {self._numbers()}", retry_after=COME_BACK)

    async def has_room(self) -> None:
        """Wait until new work is not refused any more."""
        while self.refusal() is not None:
            self._looked.clear()
            await self._looked.wait()

    def _returnable(self) -> int:
        """Return the bytes of idle models that may leave, or leave, without anybody's notice."""
        tenants = map(tenant_of, self._everybody())
        return sum(it.used or 0 for it in tenants if it.may_go or it.leaving)

    def look(self) -> None:
        """Take the step that is due."""
        self._look()
        self._looked.set()

    def _look(self) -> None:
        before = self.rung
        step = self._ladder.look(self.used, self.limit)
        if step is not None and step is not before:
            self._say(_WORDS[step], grave=step is not Rung.CALM)
        match step:
            case Rung.TRIM:
                self._trim_caches()
            case Rung.REFUSE | Rung.RECYCLE:
                self._give_up_processes(recycle=step is Rung.RECYCLE)
            case _:
                pass

    def _trim_caches(self) -> None:
        models = {it.config.id: it for it in self._everybody()}
        caches = {id_: it.child.facts.cache for id_, it in models.items()}
        sizes = {id_: cache.bytes for id_, cache in caches.items() if cache}
        for id_, nbytes in trims(self.used - self.limit, sizes).items():
            self._trim(models[id_], nbytes)

    def _give_up_processes(self, *, recycle: bool) -> None:
        """Have processes end, so that the rest fits: the idle ones, or the one that grew most.

        Idle ones are unloaded before new work is refused; one that grew is kept as long as trimmed
        caches may still help, until `recycle`.
        """
        models = {it.config.id: it for it in self._everybody() if not it.retired}
        tenants = [tenant_of(it) for it in models.values()]
        over = self.used - self.limit
        if (grown := who_grew(over, tenants)) is not None:
            if recycle and all(it.child.state in AT_REST for it in models.values()):
                self._say("gets a fresh process", grown.model)
                models[grown.model].child.restart()
            return
        for tenant in rest(over, tenants):
            self._say("is unloaded", tenant.model)
            models[tenant.model].child.unload()

    def _say(self, what: str, model: str = "", *, grave: bool = True) -> None:
        level = logging.WARNING if grave else logging.INFO
        self._events.happened(
            "pressure", model, level=level, what=what, used=self.used, limit=self.limit
        )

    def _numbers(self) -> str:
        return f"{in_words(self.used)} of {in_words(self.limit)}"


_WORDS = {
    Rung.CALM: "new work is welcome",
    Rung.TRIM: "cached prompts are given up",
    Rung.REFUSE: "new work is refused",
    Rung.RECYCLE: "a process has to end",
}
