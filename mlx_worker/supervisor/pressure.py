"""What is done when the models' processes take more than the node's limit.

`memory` decides; here it is carried out, each step said once in the log. [front]
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlx_worker.errors import MemoryFull
from mlx_worker.sizes import in_words
from mlx_worker.supervisor.memory import Ladder, Rung, trims, who_grew, who_rests
from mlx_worker.supervisor.room import COME_BACK, tenant_of
from mlx_worker.supervisor.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlx_worker.supervisor.events import Events
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
        if not self._ladder.refuses:
            return None
        return MemoryFull(f"the models take {self._numbers()}", retry_after=COME_BACK)

    def look(self) -> None:
        """Take the step that is due."""
        before = self.rung
        step = self._ladder.look(self.used, self.limit)
        if step is not None and step is not before:
            self._say(_WORDS[step], grave=step is not Rung.CALM)
        match step:
            case Rung.TRIM:
                self._trim_caches()
            case Rung.RECYCLE:
                self._recycle()
            case _:
                pass

    def _trim_caches(self) -> None:
        models = {it.config.id: it for it in self._everybody()}
        caches = {id_: it.child.facts.cache for id_, it in models.items()}
        sizes = {id_: cache.bytes for id_, cache in caches.items() if cache}
        for id_, nbytes in trims(self.used - self.limit, sizes).items():
            self._trim(models[id_], nbytes)

    def _recycle(self) -> None:
        models = {it.config.id: it for it in self._everybody()}
        if any(it.child.state not in AT_REST for it in models.values()):
            return  # somebody's end or start is to be seen first
        tenants = [tenant_of(it) for it in models.values()]
        if (grown := who_grew(self.used - self.limit, tenants)) is not None:
            self._say("gets a fresh process", grown.model)
            models[grown.model].child.restart()
        elif (resting := who_rests(tenants)) is not None:
            self._say("is unloaded", resting.model)
            models[resting.model].child.unload()

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
