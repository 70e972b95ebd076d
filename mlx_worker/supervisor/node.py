"""The models of one node: which there are, how operators change them, and how they end.

[front]
"""

from __future__ import annotations

import asyncio
import itertools
import random
from functools import partial
from typing import TYPE_CHECKING

from mlx_worker.errors import ModelBusy, ModelLoading, UnknownModel
from mlx_worker.supervisor.background import BackgroundTasks
from mlx_worker.supervisor.client import ModelClient
from mlx_worker.supervisor.config_diff import Changes, compare, with_known_folders
from mlx_worker.supervisor.drain import Drain, Retirement
from mlx_worker.supervisor.event_log import EventLog
from mlx_worker.supervisor.fingerprint import own_code
from mlx_worker.supervisor.kv_folder import KvFolder
from mlx_worker.supervisor.memory.budget import MemoryBudget
from mlx_worker.supervisor.memory.placement import Placement
from mlx_worker.supervisor.memory.pressure import Pressure
from mlx_worker.supervisor.model import ModelRuntime
from mlx_worker.supervisor.process.launch.spares import SparePool
from mlx_worker.supervisor.process.pause import PauseDetector, tick_for
from mlx_worker.supervisor.process.restart_policy import RestartWindow
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.starter import Starter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlx_worker.config.schema import CacheConfig
    from mlx_worker.models.resolve import PlannedModel
    from mlx_worker.supervisor.process.launch.launcher import Launcher
    from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.restart_policy import RestartPolicy
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
    from mlx_worker.supervisor.starter import ModelFolderAccess, Preparation

TRANSIENT = (State.STARTING, State.LOADING, State.STOPPING, State.KILLING)
"""States of a child that starts a process, or is about to."""


class Node:
    """The models by id, in the order of the configuration; `client` sends requests to them."""

    def __init__(
        self,
        planned: Sequence[PlannedModel],
        *,
        timings: Timings,
        policy: RestartPolicy,
        resume: ResumePolicy,
        standby: StandbyPolicy,
        memory_limit: int,
        launcher: Launcher,
        folders: ModelFolderAccess,
        cache: CacheConfig,
        prepared: Preparation | None = None,
    ) -> None:
        own_code()  # of now, before anything can be replaced on the disk
        self._timings = timings
        self._policy = policy
        self._resume = resume
        self.events = EventLog()
        self.pause = PauseDetector(asyncio.get_running_loop(), tick_for(timings), self._on_pause)
        is_unsettled = partial(_any_is_transient, self._all_models)
        self.spare_pool = SparePool(launcher, standby, self._restarts(), is_unsettled, self.pause)
        self._ids = itertools.count(1)
        self._background = BackgroundTasks()
        self.models: dict[str, ModelRuntime] = {}
        self.drain = Drain(timings.drain, self.pause)
        self.kv_folder = KvFolder(cache)
        self.budget = MemoryBudget(memory_limit, self.events)
        self.placement = Placement(self.budget, self._all_models, self.events)
        self.starter = Starter(
            folders, self.placement, timings, self.pause, self._share_kv, prepared
        )
        self._retiring = Retirement(
            timings.drain,
            self.pause,
            self._background,
            self.starter.forget,
            self.placement.retry_waiting,
        )
        self.pressure = Pressure(self.budget, self._all_models, self.events)
        self.client = ModelClient(
            starter=self.starter,
            pressure=self.pressure,
            drain=self.drain,
            resume=resume,
            ids=self._ids,
            pause=self.pause,
            background=self._background,
        )
        self._apply(planned)

    def _all_models(self) -> list[ModelRuntime]:
        return [*self.models.values(), *self._retiring]

    def _new_model(self, planned: PlannedModel) -> ModelRuntime:
        return ModelRuntime(
            planned,
            self,
            timings=self._timings,
            restarts=self._restarts(),
            resume=self._resume,
            spare_pool=self.spare_pool,
            ids=self._ids,
            pause=self.pause,
            events=self.events,
        )

    def _restarts(self) -> RestartWindow:
        return RestartWindow(self._policy, random.Random())  # noqa: S311  (no secret: jitter)

    def _share_kv(self) -> None:
        self.budget.share_kv(self.models.values())

    def _on_pause(self, seconds: float) -> None:
        self.events.record("pause", seconds=round(seconds, 1))

    # --- the host of the models ---

    def on_state_entered(self, model: ModelRuntime, state: State) -> None:
        """Handle a new state of a model's child."""
        self.spare_pool.on_state_change()
        if state is State.STARTING and self.kv_folder.is_wanted:
            self._background.run(self.kv_folder.open())
        working_set = model.child.status.working_set
        if working_set is not None and self.budget.lower(working_set):
            self._share_kv()
        self.starter.on_state_entered(model, state)
        self.placement.retry_waiting()
        if state is State.READY and model.warm_set:
            self._background.run(self.client.warm_all(model))

    def on_retry_due(self, model: ModelRuntime) -> None:
        """Retry a model that was given up. A model that is going away needs a request for that."""
        if model.is_busy or not model.is_going_away:
            self.starter.retry(model)

    def on_work_ended(self) -> None:
        """Start the models that wait for memory which is free now."""
        self.placement.retry_waiting()

    # --- start and stop ---

    def start(self) -> None:
        """Start every preloaded model, the pinned first; return at once.

        A model that finds no memory is started by its first request.
        """
        self._preload(self.models)
        self.pressure.start(self._timings.ping)

    def _preload(self, ids: Iterable[str]) -> None:
        models = sorted((self.models[id_] for id_ in ids), key=lambda model: not model.config.pin)
        self.starter.start_in_order(model for model in models if model.config.preload)
        for model in models:
            if model.planned.folder is None:
                self.starter.inspect(model)

    async def stop(self) -> None:
        """Drain the node, then end all processes.

        A child that dies during the drain comes back for its requests, as at any other time.
        """
        self.drain.is_active = True
        self.events.record("drain", within_s=self._timings.drain)
        await self.drain.run(self._all_models())
        self.starter.close()
        await self.spare_pool.close()
        children = [model.child for model in reversed(self._all_models())]
        for child in children:
            child.stop()
            child.cut_drain_short()
        for child in children:
            await child.reached(State.STOPPED, State.FAILED)
            await child.close()
        for model in self._all_models():
            model.idle.close()
            model.kv_events.close()
        self.pressure.close()
        self.kv_folder.close()
        self.pause.close()
        self._background.cancel_all()

    # --- what operators change ---

    def reload(
        self,
        planned: Sequence[PlannedModel],
        folders: ModelFolderAccess,
        *,
        is_disk_changed: bool = False,
    ) -> Changes:
        """Serve these models from now on; running requests may finish within the drain deadline.

        Only a model whose process has to know gets a new one. The folder of a model that was given
        up is inspected again. `is_disk_changed`: processes have to be told anew of the KV on disk.
        Raises NodeDraining.
        """
        self.drain.raise_if_active()
        self.starter.access = folders
        known = {id_: model.planned for id_, model in self.models.items()}
        with_folders = with_known_folders(known, planned)
        changes = self._apply(with_folders, is_disk_changed=is_disk_changed)
        for id_ in changes.restarted:
            model = self.models[id_]
            if model.memory_claim().is_resident:
                model.child.restart()
            elif model.child.state is State.FAILED:
                self.starter.ensure_started(model)
        self._preload(changes.added)
        for model in self.models.values():
            if model.child.state is State.FAILED:
                self.starter.inspect(model)
        return changes

    def _apply(self, planned: Sequence[PlannedModel], *, is_disk_changed: bool = False) -> Changes:
        """Have exactly these models, with these settings, in this order."""
        before, self.models = self.models, {}
        known = {id_: model.planned for id_, model in before.items()}
        changes = compare(known, planned, is_disk_changed=is_disk_changed)
        for entry in planned:
            id_ = entry.config.id
            self.models[id_] = self._new_model(entry) if id_ in changes.added else before[id_]
            if id_ in changes.restarted or id_ in changes.changed:
                self.models[id_].apply(entry)
        self._aliases = {
            alias: entry.config.id for entry in planned for alias in entry.config.aliases
        }
        self._default = next((entry.config.id for entry in planned if entry.config.default), None)
        for id_ in changes.removed:
            self._retiring.begin(before[id_], is_replaced=id_ in self.models)
        self._share_kv()
        return changes

    def restart(self, model: ModelRuntime) -> None:
        """Replace a model's process; running requests may finish first, or go on in the new one.

        Starts a model that was given up. Raises NodeDraining, MemoryFull or ModelTooLarge.
        """
        self.drain.raise_if_active()
        if model.memory_claim().is_resident:
            model.child.restart()
        else:
            self._start(model)

    def load(self, model: ModelRuntime) -> None:
        """Start a model, also one that was given up; do nothing if it runs or is starting.

        Raises NodeDraining, MemoryFull or ModelTooLarge.
        """
        self.drain.raise_if_active()
        if not model.child.coming_back:
            self._start(model)

    def unload(self, model: ModelRuntime) -> None:
        """End a model's process until a request needs it. Raises NodeDraining or ModelBusy."""
        self.drain.raise_if_active()
        if model.is_busy:
            raise ModelBusy(
                f"model {model.config.id!r} is at work: {model.admission.running} running, "
                f"{model.admission.queued} waiting",
                retry_after=1,
            )
        self.starter.cancel(model)
        self.placement.cancel(model)
        if model.child.state is State.READY:
            model.child.unload()  # which checks once more, in the step that ends the process
        else:
            model.child.stop()

    def _start(self, model: ModelRuntime) -> None:
        self.starter.ensure_started(model)
        blocked_by = model.start_blocked_by
        waits = isinstance(blocked_by, ModelLoading) or self.placement.is_reserved(model)
        if blocked_by is not None and not waits:
            raise blocked_by

    # --- names ---

    @property
    def draining(self) -> bool:
        """True if the node is going away and takes no new work."""
        return self.drain.is_active

    @property
    def has_work(self) -> bool:
        """True if requests of any kind run or wait, or if a model loads."""
        return any(
            model.is_busy or model.child.state in (State.STARTING, State.LOADING)
            for model in self._all_models()
        )

    @property
    def all_given_up(self) -> bool:
        """True if every model was given up and none has come back since."""
        return all(model.child.lifecycle.given_up for model in self.models.values())

    @property
    def primary(self) -> ModelRuntime:
        """Return the model of requests that name none: the default model, else the first."""
        return self.models[self._default or next(iter(self.models))]

    @property
    def takes_any_name(self) -> bool:
        """True if an unknown name means the default model."""
        return self._default is not None

    def find(self, name: str | None) -> ModelRuntime:
        """Return the model of that name or alias; unknown names mean the default model.

        Raises UnknownModel if there is no default model.
        """
        if name is None:
            return self.primary
        try:
            return self.named(name)
        except UnknownModel:
            if self._default is None:
                raise
            return self.primary

    def named(self, name: str) -> ModelRuntime:
        """Return the model of that name or alias. Raises UnknownModel."""
        known = self.models.get(self._aliases.get(name, name))
        if known is None:
            raise UnknownModel.among(self.models, name)
        return known


def _any_is_transient(models: Callable[[], Iterable[ModelRuntime]]) -> bool:
    """Return True if a child starts a process, or is about to."""
    return any(model.child.state in TRANSIENT for model in models())
