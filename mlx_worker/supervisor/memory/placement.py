"""Starts models as memory allows, and unloads idle models for them.

`policy` decides; this module carries the decisions out on the children. A model that has to wait
for memory is remembered, and tried again whenever a request or a process has ended.

[front]
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mlx_worker.errors import MemoryFull, ModelTooLarge
from mlx_worker.supervisor.memory.policy import (
    Admit,
    AdmitAfterEviction,
    MemoryClaim,
    Reject,
    Wait,
    decide_start,
    median_excess,
)
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.memory.budget import MemoryBudget
    from mlx_worker.supervisor.model import ModelRuntime

RETRY_AFTER = 5.0
"""Seconds after which a client may ask again: a busy model may be idle by then."""


class Placement:
    """The node's memory as models come and go.

    `all_models` returns the models of the node, those that a reload has removed and that still run
    too.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        all_models: Callable[[], Collection[ModelRuntime]],
        events: EventLog,
    ) -> None:
        self._budget = budget
        self._events = events
        self._all_models = all_models
        # True for a model whose memory is being freed already: it starts even if no request waits.
        self._waiting: dict[ModelRuntime, bool] = {}

    def ensure_started(self, model: ModelRuntime) -> None:
        """Start a model now, or once memory is free; `start_blocked_by` says why it waits."""
        # A model that a reload has removed may have the id of a model that replaces it.
        others = [other for other in self._all_models() if other is not model]
        claims = [self._corrected_claim(other) for other in others]
        match decide_start(self._corrected_claim(model), claims, self._budget.limit):
            case Admit():
                self.cancel(model)
                model.child.start()
            case AdmitAfterEviction(evicted):
                for other in others:
                    is_chosen = other.config.id in evicted and other.retired_by is None
                    if is_chosen and other.child.unload():
                        self._events.record("evict", other.config.id, by=model.config.id)
                self._wait(model, _memory_is_freed(model, evicted), reserved=True)
            case Wait(why):
                error = MemoryFull(_does_not_fit(model, why), retry_after=RETRY_AFTER)
                if model.start_blocked_by is None:
                    self._report_no_room(model, why)
                self._wait(model, error, reserved=False)
            case Reject(why):
                self.cancel(model)
                model.start_blocked_by = ModelTooLarge(_does_not_fit(model, why))
                self._report_no_room(model, why)

    def is_reserved(self, model: ModelRuntime) -> bool:
        """Return True if memory is being freed for a model that waits."""
        return self._waiting.get(model, False)

    def retry_waiting(self) -> None:
        """Try the models that wait for memory again: a request or a process has ended."""
        for model, reserved in list(self._waiting.items()):
            if model.is_busy or (reserved and not model.is_going_away):
                self.ensure_started(model)
                refusal = None if model in self._waiting else model.start_blocked_by
            else:
                refusal = model.start_blocked_by
                self.cancel(model)
            if refusal is not None and model.child.state is State.FAILED:
                model.child.cannot_start(refusal.message)  # the slow retry comes again

    def cancel(self, model: ModelRuntime) -> None:
        """Do not start a model that waits for memory."""
        model.start_blocked_by = None
        self._waiting.pop(model, None)

    def close(self) -> None:
        """Start no model that waits for memory: the processes are about to end."""
        for model in list(self._waiting):
            self.cancel(model)

    def _corrected_claim(self, model: ModelRuntime) -> MemoryClaim:
        """Return a model's claim; one without a measurement is corrected by those of others.

        A model that fits alone by its own estimate is not rejected for the excess of others.
        """
        claim = model.memory_claim()
        if model.at_start is not None:
            return claim
        measured = [
            (other.at_start, other.estimated_bytes)
            for other in self._all_models()
            if other.at_start is not None
        ]
        corrected = min(claim.at_start + median_excess(measured), self._budget.limit)
        return replace(claim, at_start=max(claim.at_start, corrected))

    def _wait(self, model: ModelRuntime, error: WorkerError, *, reserved: bool) -> None:
        model.start_blocked_by = error
        self._waiting[model] = reserved

    def _report_no_room(self, model: ModelRuntime, why: str) -> None:
        self._events.record("no room", model.config.id, level=logging.WARNING, why=why)


def _does_not_fit(model: ModelRuntime, why: str) -> str:
    return f"model {model.config.id!r} does not fit in memory: {why}"


def _memory_is_freed(model: ModelRuntime, evicted: tuple[str, ...]) -> MemoryFull:
    leaving = ", ".join(evicted) or "models that are ending"
    why = f"model {model.config.id!r} waits for the memory of {leaving}"
    return MemoryFull(why, retry_after=1)
