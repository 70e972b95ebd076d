"""Starts models: the folder is inspected first, then memory is claimed.

A folder may be missing, broken, or on a share that does not answer. Daemon threads inspect folders,
at most one thread a model, with a deadline: no other model and no request waits for a folder. A
model whose folder cannot be used is FAILED with the reason. The folder is inspected again when the
child's slow retry is due, as soon as the folder changes, and when an operator asks.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mlx_worker.errors import ModelLoading, WorkerError, cause_of
from mlx_worker.supervisor.process.states import State
from mlx_worker.system.daemon_threads import call_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable
    from pathlib import Path

    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.models.folder import ModelFolder
    from mlx_worker.supervisor.memory.placement import Placement
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.pause import PauseDetector

    Preparation = Callable[[], Awaitable[object]]
    """Waits until the machine is prepared for models. Never fails."""


IN_ORDER = 1.0
"""Seconds that a model waits for the inspection of those which take memory before it."""


@dataclass(frozen=True, slots=True)
class ModelFolderAccess:
    """How models' folders are found and read. Both calls may block; both run in daemon threads.

    `inspect` raises WorkerError where the folder cannot be used; `places` are the paths where the
    folder may be.
    """

    inspect: Callable[[ModelConfig], ModelFolder]
    places: Callable[[ModelConfig], list[Path]]


class _FolderInspection:
    """What is under way for one model's folder."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.watch: asyncio.Task[None] | None = None
        self.reading: asyncio.Future[ModelFolder] | None = None
        self.signature: Hashable = None
        """Of the folder as the last inspection found it; None: not inspected."""
        self.before: asyncio.Task[None] | None = None
        self.start_wanted = False
        """Start the model once its folder can be used."""


class Starter:
    """Starts models, and watches the folders of those that were given up.

    No folder is inspected before `prepared` has returned.
    """

    def __init__(
        self,
        access: ModelFolderAccess,
        placement: Placement,
        timings: Timings,
        pause: PauseDetector,
        on_inspected: Callable[[], None],
        prepared: Preparation | None = None,
    ) -> None:
        self.access = access
        self._placement = placement
        self._timings = timings
        self._pause = pause
        self._on_inspected = on_inspected
        self._prepared = prepared
        self._inspections: dict[ModelRuntime, _FolderInspection] = {}
        self._closed = False

    def ensure_started(self, model: ModelRuntime) -> None:
        """Start a model as soon as its folder can be used and memory is free."""
        if model.planned.folder is not None and not model.child.lifecycle.cannot_load:
            self._placement.ensure_started(model)
        else:
            self._inspection(model).start_wanted = True
            self.inspect(model)

    def start_in_order(self, models: Iterable[ModelRuntime]) -> None:
        """Start models; those that come first take memory first."""
        before: asyncio.Task[None] | None = None
        for model in models:
            inspection = self._inspection(model)
            inspection.before = before
            self.ensure_started(model)
            before = inspection.task

    def inspect(self, model: ModelRuntime) -> None:
        """Inspect a model's folder now; start the model only if a start is wanted."""
        if self._closed:
            return
        inspection = self._inspection(model)
        if inspection.task is None or inspection.task.done():
            inspection.task = asyncio.create_task(self._inspect(model, inspection))
            if model.child.state is State.STOPPED:
                model.start_blocked_by = _being_inspected(model)

    def retry(self, model: ModelRuntime) -> None:
        """Start a model whose slow retry is due, if its folder can be used now."""
        inspection = self._inspection(model)
        wanted = inspection.start_wanted or model.child.desired_running or model.is_busy
        inspection.start_wanted = wanted
        self.inspect(model)

    def on_state_entered(self, model: ModelRuntime, state: State) -> None:
        """Watch the folder of a model while the model is given up."""
        if state is not State.STOPPED and isinstance(model.start_blocked_by, ModelLoading):
            model.start_blocked_by = None  # what was found in the folder is known by now
        inspection = self._inspections.get(model)
        if state is not State.FAILED:
            if inspection is not None and inspection.watch is not None:
                inspection.watch.cancel()
                inspection.watch = None
        elif model.retired_by is None and not self._closed:
            inspection = inspection or self._inspection(model)
            watch = inspection.watch or asyncio.create_task(self._watch(model, inspection))
            inspection.watch = watch

    def cancel(self, model: ModelRuntime) -> None:
        """Do not start the model when its folder can be used."""
        if (inspection := self._inspections.get(model)) is not None:
            inspection.start_wanted = False

    def forget(self, model: ModelRuntime) -> None:
        """End all that is under way for a model. A stalled thread is left behind."""
        self._placement.cancel(model)
        if (inspection := self._inspections.pop(model, None)) is not None:
            for task in filter(None, (inspection.task, inspection.watch)):
                task.cancel()

    def close(self) -> None:
        """End all that is under way, for good."""
        self._closed = True
        for model in list(self._inspections):
            self.forget(model)
        self._placement.close()

    # --- inside ---

    def _inspection(self, model: ModelRuntime) -> _FolderInspection:
        return self._inspections.setdefault(model, _FolderInspection())

    async def _inspect(self, model: ModelRuntime, inspection: _FolderInspection) -> None:
        if self._prepared is not None:
            await self._prepared()
        try:
            folder = await self._read_in_time(model, inspection)
        except WorkerError as error:
            wanted = inspection.start_wanted or model.child.desired_running
            inspection.start_wanted = wanted
            model.child.cannot_start(error.message)
            return
        model.on_folder_inspected(folder)
        self._on_inspected()
        if inspection.start_wanted and inspection.before is not None:
            await asyncio.wait({inspection.before}, timeout=IN_ORDER)
            inspection.before = None
        # Only now: an operator may have stopped the model meanwhile.
        wanted, inspection.start_wanted = inspection.start_wanted, False
        model.start_blocked_by = None
        if model.is_busy or (wanted and not model.is_going_away):
            self._start(model, inspection)
        elif model.child.state is State.FAILED:
            if model.child.desired_running and not model.is_going_away:
                self._start(model, inspection)
            else:
                model.child.can_start()

    def _start(self, model: ModelRuntime, inspection: _FolderInspection) -> None:
        self._placement.ensure_started(model)
        blocked_by = model.start_blocked_by
        if blocked_by is None or self._placement.is_reserved(model):
            return
        if model.child.state is State.FAILED:
            inspection.start_wanted = True
            model.child.cannot_start(blocked_by.message)

    async def _read_in_time(
        self, model: ModelRuntime, inspection: _FolderInspection
    ) -> ModelFolder:
        """Inspect the folder within the deadline. Raises WorkerError with the reason."""
        config = model.config
        if inspection.reading is None or inspection.reading.done():
            call = partial(self._read, config, inspection)
            inspection.reading = call_in_daemon_thread(call, f"inspect {config.id}")
        reading = inspection.reading
        with contextlib.suppress(TimeoutError):
            async with self._pause.timeout(self._timings.inspect):
                await asyncio.wait({reading})
        if not reading.done():
            raise WorkerError(
                f"model {config.id!r}: its folder {config.path} does not answer "
                f"within {self._timings.inspect:g} s; is its disk or share connected?"
            )
        try:
            return reading.result()
        except WorkerError:
            raise
        except Exception as error:
            raise WorkerError(f"model {config.id!r}: {cause_of(error)}") from error

    def _read(self, config: ModelConfig, inspection: _FolderInspection) -> ModelFolder:
        """Inspect a folder, in a daemon thread."""
        # Before the inspection: what changes meanwhile is a change.
        inspection.signature = _signature(self.access.places, config)
        return self.access.inspect(config)

    async def _watch(self, model: ModelRuntime, inspection: _FolderInspection) -> None:
        """Compare the folder with the last inspection while the model is given up."""
        while True:
            call = partial(_signature, self.access.places, model.config)
            signature: Hashable
            try:
                signature = await call_in_daemon_thread(call, f"watch {model.config.id}")
            except Exception as error:  # noqa: BLE001  (no look that fails ends the watch)
                signature = cause_of(error)
            if inspection.signature is None:
                inspection.signature = signature
            elif signature != inspection.signature:
                self.inspect(model)
            await asyncio.sleep(self._timings.watch)


def _being_inspected(model: ModelRuntime) -> ModelLoading:
    why = f"the folder of model {model.config.id!r} is being inspected"
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
