"""What is done when the processes of the models take more than the node's limit.

`policy` decides; this module carries the decisions out, and records each one once.

[front]
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mlx_worker.config.sizes import in_words
from mlx_worker.errors import MemoryFull
from mlx_worker.supervisor.memory.placement import RETRY_AFTER
from mlx_worker.supervisor.memory.policy import (
    PressureEscalation,
    PressureLevel,
    bytes_to_trim,
    model_to_recycle,
    models_to_unload,
)
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.memory.budget import MemoryBudget
    from mlx_worker.supervisor.model import ModelRuntime

SETTLED = (State.READY, State.STOPPED, State.FAILED)
"""States in which no process starts or ends."""


class Pressure:
    """Compares the measured memory of the models with the budget."""

    def __init__(
        self,
        budget: MemoryBudget,
        all_models: Callable[[], Collection[ModelRuntime]],
        events: EventLog,
    ) -> None:
        self._budget = budget
        self._events = events
        self._all_models = all_models
        self._escalation = PressureEscalation()
        self._checked = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def used(self) -> int:
        """Return the bytes that the processes took by their last reports."""
        return sum(model.memory_claim().used or 0 for model in self._all_models())

    @property
    def level(self) -> PressureLevel:
        """Return the current level."""
        return self._escalation.level

    def start(self, every: float) -> None:
        """Check the memory now, and every `every` seconds until `close`."""
        self.check()
        self._timer = asyncio.get_running_loop().call_later(every, self.start, every)

    def close(self) -> None:
        """End the checks."""
        if self._timer is not None:
            self._timer.cancel()

    def refusal(self) -> MemoryFull | None:
        """Return why new work is refused; None if it is not."""
        # A process that has ended since the last check has returned its memory already.
        if not self._escalation.refuses_work:
            return None
        if self.used - self._returnable() <= self._budget.limit:
            return None
        return MemoryFull(f"the models take {self._numbers()}", retry_after=RETRY_AFTER)

    async def wait_until_accepting(self) -> None:
        """Wait until new work is not refused any more."""
        while self.refusal() is not None:
            self._checked.clear()
            await self._checked.wait()

    def _returnable(self) -> int:
        """Return the bytes of models that are ending or that no client would miss."""
        claims = (model.memory_claim() for model in self._all_models())
        return sum(claim.used or 0 for claim in claims if claim.is_evictable or claim.is_leaving)

    def check(self) -> None:
        """Compare the memory with the limit, and act on the level that follows."""
        before = self.level
        level = self._escalation.check(self.used, self._budget.limit)
        if level is not None and level is not before:
            self._report(_WORDS[level], is_warning=level is not PressureLevel.CALM)
        match level:
            case PressureLevel.TRIM:
                self._trim_caches()
            case PressureLevel.REFUSE | PressureLevel.RECYCLE:
                self._end_processes(recycle=level is PressureLevel.RECYCLE)
            case _:
                pass
        self._checked.set()

    def _trim_caches(self) -> None:
        models = {model.config.id: model for model in self._all_models()}
        caches = {id_: model.child.status.cache for id_, model in models.items()}
        sizes = {id_: cache.bytes for id_, cache in caches.items() if cache}
        for id_, nbytes in bytes_to_trim(self.used - self._budget.limit, sizes).items():
            models[id_].trim_cache(nbytes)

    def _end_processes(self, *, recycle: bool) -> None:
        """End processes so that the others fit: idle ones, or the process that grew most.

        Idle models are unloaded before new work is refused. A process that has grown is kept until
        `recycle`, as long as trimmed caches may still help.
        """
        models = {
            model.config.id: model for model in self._all_models() if model.retired_by is None
        }
        claims = [model.memory_claim() for model in models.values()]
        over = self.used - self._budget.limit
        if (grown := model_to_recycle(over, claims)) is not None:
            if recycle and all(model.child.state in SETTLED for model in models.values()):
                self._report("gets a fresh process", grown.model)
                models[grown.model].child.restart()
            return
        for claim in models_to_unload(over, claims):
            self._report("is unloaded", claim.model)
            models[claim.model].child.unload()

    def _report(self, what: str, model: str = "", *, is_warning: bool = True) -> None:
        level = logging.WARNING if is_warning else logging.INFO
        used, limit = self.used, self._budget.limit
        self._events.record("pressure", model, level=level, what=what, used=used, limit=limit)

    def _numbers(self) -> str:
        return f"{in_words(self.used)} of {in_words(self._budget.limit)}"


_WORDS = {
    PressureLevel.CALM: "new work is accepted",
    PressureLevel.TRIM: "cached prompts are evicted",
    PressureLevel.REFUSE: "new work is refused",
    PressureLevel.RECYCLE: "a process has to end",
}
