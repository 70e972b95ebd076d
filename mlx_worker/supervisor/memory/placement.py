"""Who may start, as memory allows, and who leaves for it.

`memory` decides; here its decisions are carried out on the children. A model that has to wait for
room is kept in mind, and tried again whenever anything ended: a generation, a process. [front]
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from mlx_worker.errors import MemoryFull, ModelTooLarge
from mlx_worker.supervisor.memory.policy import (
    PROCESS_BYTES,
    Evict,
    Fits,
    Full,
    NeverFits,
    Tenant,
    make_room,
    surplus,
)
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mlx_worker.errors import WorkerError
    from mlx_worker.models.resolve import PlannedModel
    from mlx_worker.supervisor.event_log import Events
    from mlx_worker.supervisor.node import Served

COME_BACK = 5.0
"""Seconds after which room may be asked for again: somebody at work may be idle by then."""


def expected_bytes(planned: PlannedModel) -> int:
    """What a model's process will take once it is loaded, before it was ever measured."""
    weights = planned.folder.weight_bytes if planned.folder else 0
    return weights + PROCESS_BYTES


def tenant_of(served: Served) -> Tenant:
    """What is known of a model's memory just now."""
    child = served.child
    gone = child.state in (State.STOPPED, State.FAILED)
    return Tenant(
        model=served.config.id,
        at_start=child.at_start or served.expected_bytes,
        used=child.facts.pong.resident_bytes if child.facts.pong else None,
        lodged=child.coming_back or not gone,
        leaving=not gone and (served.retired or not child.coming_back),
        idle=child.state is State.READY and not served.is_busy,
        pinned=served.config.pin,
        last_used=served.idle.last_used,
    )


class Room:
    """The node's memory as models come and go. `everybody` lists all, those on their way out too.

    `limit` in bytes.
    """

    def __init__(
        self, limit: int, everybody: Callable[[], Collection[Served]], events: Events
    ) -> None:
        self.limit = limit
        self._events = events
        self._everybody = everybody
        # Whether its room is being made already: then it starts, though nobody may wait by then.
        self._waiting: dict[Served, bool] = {}

    def bring(self, served: Served) -> None:
        """Start a model, now or once there is room; `held_back` says why it has not started."""
        # One on its way out may have the name of one that is served.
        others = [it for it in self._everybody() if it is not served]
        tenants = [self._corrected(it) for it in others]
        match make_room(self._corrected(served), tenants, self.limit):
            case Fits():
                self.forget(served)
                served.child.start()
            case Evict(models):
                for other in others:
                    is_chosen = other.config.id in models and not other.retired
                    if is_chosen and other.child.unload():
                        self._events.happened("evict", other.config.id, by=served.config.id)
                self._hold(served, _room_is_made(served, models), promised=True)
            case Full(why):
                error = MemoryFull(_no_room(served, why), retry_after=COME_BACK)
                if served.child.held_back is None:
                    self._say_no_room(served, why)
                self._hold(served, error, promised=False)
            case NeverFits(why):
                self.forget(served)
                served.child.held_back = ModelTooLarge(_no_room(served, why))
                self._say_no_room(served, why)

    def _corrected(self, served: Served) -> Tenant:
        """Return a claim that goes by what others' processes took, where its own is not measured.

        A model that fits alone by its own figures is not refused for good by those of others.
        """
        tenant = tenant_of(served)
        if served.child.at_start is not None:
            return tenant
        known = [it for it in self._everybody() if it.child.at_start is not None]
        more = surplus((it.child.at_start or 0, it.expected_bytes) for it in known)
        at_start = max(tenant.at_start, min(tenant.at_start + more, self.limit))
        return replace(tenant, at_start=at_start)

    def promised(self, served: Served) -> bool:
        """Is its room being made already?"""
        return self._waiting.get(served, False)

    def changed(self) -> None:
        """Something has ended: there may be room now."""
        for served, promised in list(self._waiting.items()):
            if promised or served.is_busy:
                self.bring(served)
                refusal = None if served in self._waiting else served.child.held_back
            else:
                refusal = served.child.held_back
                self.forget(served)
            if refusal is not None and served.child.state is State.FAILED:
                served.child.cannot_start(refusal.message)  # its slow retry comes again

    def forget(self, served: Served) -> None:
        """It is not to be started any more."""
        served.child.held_back = None
        self._waiting.pop(served, None)

    def _hold(self, served: Served, error: WorkerError, *, promised: bool) -> None:
        served.child.held_back = error
        self._waiting[served] = promised

    def _say_no_room(self, served: Served, why: str) -> None:
        self._events.happened("no room", served.config.id, level=logging.WARNING, why=why)


def _no_room(served: Served, why: str) -> str:
    return f"model {served.config.id!r} does not fit in memory: {why}"


def _room_is_made(served: Served, models: tuple[str, ...]) -> MemoryFull:
    leaving = ", ".join(models) or "what is leaving"
    why = f"model {served.config.id!r} waits for the memory of {leaving}"
    return MemoryFull(why, retry_after=1)
