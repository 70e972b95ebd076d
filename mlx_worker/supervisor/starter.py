"""Starts models: first their folder is looked at, then memory is asked for room.

A folder may be missing, broken, or on a share that does not answer. Looking at it happens in daemon
threads, at most one a model, with a deadline: no other model and no request ever waits for it. A
model whose folder cannot be used is FAILED with the reason. It is looked at again when the child's
slow retry is due, as soon as the folder changes, and when an operator asks. [front]
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mlx_worker.errors import ModelLoading, WorkerError, cause_of
from mlx_worker.supervisor.process.states import State
from mlx_worker.system.daemon_threads import call_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from pathlib import Path

    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.models.folder import ModelFolder
    from mlx_worker.supervisor.memory.placement import Room
    from mlx_worker.supervisor.node import Served
    from mlx_worker.supervisor.process.lifecycle import Timings


IN_ORDER = 1.0
"""Seconds that a model waits for the inspection of those which take memory before it."""


@dataclass(frozen=True, slots=True)
class FolderAccess:
    """How models' folders are found and read. Both calls may block; both run in daemon threads.

    `inspect` raises WorkerError where the folder cannot be used; `places` are the paths where the
    folder may be.
    """

    inspect: Callable[[ModelConfig], ModelFolder]
    places: Callable[[ModelConfig], list[Path]]


class _Look:
    """What is under way for one model's folder."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.watch: asyncio.Task[None] | None = None
        self.inspection: asyncio.Future[ModelFolder] | None = None
        self.signature: Hashable = None
        """Of the folder as the last inspection found it; None: not inspected."""
        self.before: asyncio.Task[None] | None = None
        self.wanted = False
        """Start the model once its folder can be used."""


class Starter:
    """Brings models up, and watches the folders of those that were given up."""

    def __init__(
        self, access: FolderAccess, room: Room, timings: Timings, on_found: Callable[[], None]
    ) -> None:
        self.access = access
        self._room = room
        self._timings = timings
        self._on_found = on_found
        self._looks: dict[Served, _Look] = {}
        self._closed = False

    def bring(self, served: Served) -> None:
        """Start a model as soon as its folder can be used and memory has room."""
        if served.planned.folder is not None and not served.child.cannot_load:
            self._room.bring(served)
        else:
            self._look(served).wanted = True
            self.inspect(served)

    def bring_in_order(self, models: Iterable[Served]) -> None:
        """Start models; those that come first take memory first."""
        before: asyncio.Task[None] | None = None
        for served in models:
            look = self._look(served)
            look.before = before
            self.bring(served)
            before = look.task

    def inspect(self, served: Served) -> None:
        """Look at a model's folder now; start the model only where it is wanted."""
        look = self._look(served)
        if look.task is None or look.task.done():
            look.task = asyncio.create_task(self._inspect(served, look))
            if served.child.state is State.STOPPED:
                served.child.held_back = _being_inspected(served)

    def retry(self, served: Served) -> None:
        """A model's slow retry is due: start the model if its folder can be used now."""
        look = self._look(served)
        look.wanted = look.wanted or served.child.wants_process or served.is_busy
        self.inspect(served)

    def entered(self, served: Served, state: State) -> None:
        """Watch the folder of a model while the model is given up."""
        if state is not State.STOPPED and isinstance(served.child.held_back, ModelLoading):
            served.child.held_back = None  # what was found in the folder is known by now
        look = self._looks.get(served)
        if state is not State.FAILED:
            if look is not None and look.watch is not None:
                look.watch.cancel()
                look.watch = None
        elif not (served.retired or self._closed):
            look = look or self._look(served)
            look.watch = look.watch or asyncio.create_task(self._watch(served, look))

    def cancel(self, served: Served) -> None:
        """Do not start the model when its folder can be used."""
        if (look := self._looks.get(served)) is not None:
            look.wanted = False

    def forget(self, served: Served) -> None:
        """End all that is under way for a model. A stalled thread is left behind."""
        if (look := self._looks.pop(served, None)) is not None:
            for task in filter(None, (look.task, look.watch)):
                task.cancel()

    def close(self) -> None:
        """End all that is under way, for good."""
        self._closed = True
        for served in list(self._looks):
            self.forget(served)

    # --- inside ---

    def _look(self, served: Served) -> _Look:
        return self._looks.setdefault(served, _Look())

    async def _inspect(self, served: Served, look: _Look) -> None:
        try:
            folder = await self._found(served, look)
        except WorkerError as error:
            self._cannot_start(served, look, error.message)
            return
        served.found(folder)
        self._on_found()
        if look.wanted and look.before is not None:
            await asyncio.wait({look.before}, timeout=IN_ORDER)
            look.before = None
        # Only now: an operator may have stopped the model meanwhile.
        wanted, look.wanted = look.wanted, False
        served.child.held_back = None
        if wanted or served.is_busy:
            self._start(served, look)
        elif served.child.state is State.FAILED:
            if served.child.wants_process:
                self._start(served, look)
            else:
                served.child.can_start()

    def _start(self, served: Served, look: _Look) -> None:
        self._room.bring(served)
        held_back = served.child.held_back
        waits = held_back is not None and not self._room.promised(served)
        if held_back is not None and waits and served.child.state is State.FAILED:
            look.wanted = True
            served.child.cannot_start(held_back.message)

    def _cannot_start(self, served: Served, look: _Look, why: str) -> None:
        look.wanted = look.wanted or served.child.wants_process
        served.child.cannot_start(why)

    async def _found(self, served: Served, look: _Look) -> ModelFolder:
        """Inspect the folder within the deadline. Raises WorkerError with the reason."""
        if look.inspection is None or look.inspection.done():
            call = partial(self._read, served.config, look)
            look.inspection = call_in_daemon_thread(call, f"inspect {served.config.id}")
        inspection = look.inspection
        await asyncio.wait({inspection}, timeout=self._timings.inspect)
        if not inspection.done():
            raise WorkerError(
                f"model {served.config.id!r}: its folder {served.config.path} does not answer "
                f"within {self._timings.inspect:g} s; is its disk or share connected?"
            )
        try:
            return inspection.result()
        except WorkerError:
            raise
        except Exception as error:
            raise WorkerError(f"model {served.config.id!r}: {cause_of(error)}") from error

    def _read(self, config: ModelConfig, look: _Look) -> ModelFolder:
        """Inspect a folder, in a daemon thread."""
        # Before the inspection: what changes meanwhile is a change.
        look.signature = _signature(self.access.places, config)
        return self.access.inspect(config)

    async def _watch(self, served: Served, look: _Look) -> None:
        """Compare the folder with the last inspection while the model is given up."""
        while True:
            call = partial(_signature, self.access.places, served.config)
            signature: Hashable
            try:
                signature = await call_in_daemon_thread(call, f"watch {served.config.id}")
            except Exception as error:  # noqa: BLE001  (no look that fails ends the watch)
                signature = cause_of(error)
            if look.signature is None:
                look.signature = signature
            elif signature != look.signature:
                self.inspect(served)
            await asyncio.sleep(self._timings.watch)


def _being_inspected(served: Served) -> ModelLoading:
    why = f"the folder of model {served.config.id!r} is being looked at"
    return ModelLoading(why, retry_after=2)


def _signature(places: Callable[[ModelConfig], list[Path]], config: ModelConfig) -> Hashable:
    """Return what tells one state of a model's folder from another, without opening a file."""
    return tuple(_entries(place) for place in places(config))


def _entries(folder: Path) -> Hashable:
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(_entry(entry) for entry in entries))
    except OSError as error:
        return error.errno


def _entry(entry: os.DirEntry[str]) -> tuple[str, int, int, int]:
    try:
        status = entry.stat()
    except OSError as error:
        return entry.name, 0, 0, error.errno or 0
    return entry.name, status.st_mode, status.st_size, status.st_mtime_ns
