"""One configured model at run time: its settings, its child, its queue, its generations.

[front]
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from mlx_worker.config.sizes import in_words
from mlx_worker.logs import Entry
from mlx_worker.supervisor.config_diff import load_of
from mlx_worker.supervisor.kv_events.feed import KvEventFeed
from mlx_worker.supervisor.memory.idle import IdleTimer
from mlx_worker.supervisor.memory.policy import MemoryClaim, disk_buffers, expected_bytes
from mlx_worker.supervisor.model_status import ModelStatus
from mlx_worker.supervisor.process.child import Child
from mlx_worker.supervisor.process.launch.group import RankGroup
from mlx_worker.supervisor.process.launch.rank_plan import RankPlan
from mlx_worker.supervisor.process.lifecycle import Lifecycle
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.admission import Admission
from mlx_worker.supervisor.requests.dispatcher import Dispatcher
from mlx_worker.supervisor.requests.unary import UnaryCall
from mlx_worker.supervisor.warm_prompts import WarmSet
from mlx_worker.wire.prompt_cache import TrimCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.errors import WorkerError
    from mlx_worker.models.folder import ModelFolder
    from mlx_worker.models.resolve import PlannedModel
    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.kv_folder import KvFolder
    from mlx_worker.supervisor.process.connection import ConnectionCallbacks
    from mlx_worker.supervisor.process.launch.launcher import Launched
    from mlx_worker.supervisor.process.launch.spares import SparePool
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.pause import PauseDetector
    from mlx_worker.supervisor.process.restart_policy import RestartWindow
    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
    from mlx_worker.wire.messages import DiskCache, Load


log = logging.getLogger(__name__)

LITTLE_PROMPT: Final = 4096
"""Tokens: a folder that cannot hold the KV of one such prompt is hardly of use to a model."""


class ModelHost(Protocol):
    """The node that a model belongs to."""

    kv_folder: KvFolder

    @property
    def draining(self) -> bool:
        """True if the node is going away and takes no new work."""

    def on_state_entered(self, model: ModelRuntime, state: State) -> None:
        """Handle a new state of the model's child."""

    def on_retry_due(self, model: ModelRuntime) -> None:
        """Handle that the slow retry of a model that was given up is due."""

    def on_work_ended(self) -> None:
        """Handle the end of a request: a model may be idle now."""


class ModelRuntime:
    """One model; the `ChildHost` of its child.

    `start_blocked_by` is why the model is not started, for
    its folder or for memory; None if it may start. `at_start` is what a process was measured to
    take once it had loaded the model, in bytes; it outlives that process. `retired_by` is why the
    model takes no work any more: the configuration does not have it.
    """

    def __init__(
        self,
        planned: PlannedModel,
        host: ModelHost,
        *,
        timings: Timings,
        restarts: RestartWindow,
        resume: ResumePolicy,
        spare_pool: SparePool,
        ids: Iterator[int],
        pause: PauseDetector,
        events: EventLog,
    ) -> None:
        config = planned.config
        self.planned = planned
        self._load = load_of(planned)
        self.start_blocked_by: WorkerError | None = None
        self.at_start: int | None = None
        self.retired_by: WorkerError | None = None
        self._host = host
        self._spare_pool = spare_pool
        self._events = events
        self._ids = ids
        self._unary_calls = 0
        self._timings, self._pause = timings, pause
        self._disk_told: DiskCache | None = None
        self.admission = Admission(config.id, config.max_concurrency, config.max_queue)
        self.warm_set = WarmSet(config.warm)
        lifecycle = Lifecycle(timings, restarts)
        self.child = Child(
            config.id, self, lifecycle, timings, launch=self._launch, pause=pause, events=events
        )
        self.dispatcher = Dispatcher(
            self.child, ids, resume, pause, self._on_generation_ended, events, self.refusal
        )
        self.idle = IdleTimer(config.idle_timeout, self.child.unload, pause)
        self.kv_events = KvEventFeed(config.id, self.child.kv_log, events)
        self.kv_events.apply(config)

    @property
    def config(self) -> ModelConfig:
        """Return the model's configuration."""
        return self.planned.config

    # --- settings ---

    @property
    def load(self) -> Load:
        """Return the message that tells a new process what to load."""
        return msgspec.structs.replace(self._load, disk=self._disk_cache)

    @property
    def _disk_cache(self) -> DiskCache | None:
        """Return the folder of KV on disk for the next process; None: it keeps none.

        A process that may be the last one before the model is given up keeps none either: whatever
        ends the processes, the disk is not to blame for an outage.
        """
        disk = self._host.kv_folder.settings
        ends, allowed = self.child.recent_ends
        is_last_try = 0 < allowed <= ends
        is_avoided = is_last_try or self.dispatcher.avoids_disk
        if disk is None or is_avoided or not self.config.keeps_kv_on_disk:
            return None
        return msgspec.structs.replace(disk, suspects=self.dispatcher.disk_suspects.records)

    def apply(self, planned: PlannedModel) -> None:
        """Apply other settings; what only a process goes by counts from the next process on."""
        config = planned.config
        is_split_anew = (config.ranks, planned.hosts) != (self.config.ranks, self.planned.hosts)
        if load_of(planned) != load_of(self.planned) or is_split_anew:
            self._load = load_of(planned)
            self.at_start = None
        self.planned = planned
        self.admission.resize(config.max_concurrency, config.max_queue)
        self.warm_set.files = config.warm
        self.idle.after = config.idle_timeout
        self.idle.used()
        self.kv_events.apply(config)

    def on_folder_inspected(self, folder: ModelFolder) -> None:
        """Record what an inspection found in the model's folder."""
        if folder != self.planned.folder:
            self.planned = replace(self.planned, folder=folder)
            for warning in self.planned.warnings:
                self._events.record(
                    "folder", self.config.id, level=logging.WARNING, warning=warning
                )
            kv_bytes = self._load.kv_bytes
            self._load = msgspec.structs.replace(load_of(self.planned), kv_bytes=kv_bytes)

    def set_kv_budget(self, nbytes: int) -> None:
        """Set the memory that the running rows of the next process may take."""
        self._load = msgspec.structs.replace(self._load, kv_bytes=nbytes)

    # --- what it does now ---

    @property
    def is_busy(self) -> bool:
        """True if requests of any kind need the model now."""
        admission = self.admission
        at_work = self.child.open_ids or self.dispatcher.is_busy
        return bool(at_work or admission.running or admission.queued or self._unary_calls)

    @property
    def is_going_away(self) -> bool:
        """True if the model or its node takes no new work: only what has begun needs the model."""
        return self.retired_by is not None or self._host.draining

    @property
    def is_unloaded(self) -> bool:
        """True if the process ends, or has ended, because no request needed it."""
        return not self.child.coming_back and self.child.state is not State.FAILED

    def refusal(self) -> WorkerError | None:
        """Return why the model takes no new work just now; None if it does."""
        if self.start_blocked_by is not None and self.child.state is not State.FAILED:
            return self.start_blocked_by
        return self.child.refusal()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a request that is no generation as use, from its wait for the model to its end."""
        self._unary_calls += 1
        try:
            yield
        finally:
            self._unary_calls -= 1
            self.idle.used()
            self._host.on_work_ended()

    def _on_generation_ended(self, generation: Generation) -> None:
        self.admission.release_slot(generation.age)
        self.idle.used()
        self._host.on_work_ended()

    # --- memory ---

    @property
    def estimated_bytes(self) -> int:
        """Return what the process is expected to take, before one was measured."""
        return expected_bytes(self.planned)

    @property
    def running_kv_bytes(self) -> int:
        """Return the KV bytes of running rows by their tokens; a shared prefix counts each time."""
        loaded = self.child.status.loaded
        return sum(map(loaded.kv.nbytes, self.dispatcher.kv_tokens)) if loaded else 0

    def memory_claim(self) -> MemoryClaim:
        """Return what is known of the model's memory just now."""
        child = self.child
        gone = child.state in (State.STOPPED, State.FAILED)
        return MemoryClaim(
            model=self.config.id,
            at_start=self.at_start or self.estimated_bytes,
            used=child.status.resident_bytes,
            is_resident=child.coming_back or not gone,
            is_leaving=not gone and (self.retired_by is not None or not child.coming_back),
            is_idle=child.state is State.READY and not self.is_busy,
            is_pinned=self.config.pin,
            last_used=self.idle.last_used,
            disk_buffers=disk_buffers(self.config, self._host.kv_folder.config),
        )

    def trim_cache(self, nbytes: int) -> None:
        """Have the process free bytes of its prompt cache."""
        if self.child.serving:
            id_ = next(self._ids)
            call = UnaryCall(self.dispatcher.suspect)  # whose answer says nothing
            # Every process of the model frees as much as rank 0 does.
            self.child.open(id_, call, TrimCache(id_, -(-nbytes // self.config.ranks)))

    # --- the host of the child ---

    async def _launch(self, callbacks: ConnectionCallbacks) -> Launched:
        env, pool = self.config.env, self._spare_pool
        if self.config.rank_count == 1:
            return await pool.launch(callbacks, env)
        group = RankGroup(callbacks, RankPlan.of(self.planned), self._timings, self._pause)
        return await group.start(
            lambda callbacks: pool.launch(callbacks, env),
            lambda callbacks, host: pool.launch_rank(callbacks, host, env),
        )

    def on_state_entered(self, state: State) -> None:
        """Tell generations and node of a new state of the child."""
        self.dispatcher.on_state_entered(state)
        self._follow_disk(state)
        if state not in (State.READY, State.DRAINING):
            self.child.kv_log.on_process_lost()
        self._host.on_state_entered(self, state)
        if state is State.READY:
            self.idle.used()

    def _follow_disk(self, state: State) -> None:
        """Forget the records under suspicion once a process that was told of them is READY."""
        if state is State.LOADING:
            self._disk_told = self._disk_cache
        elif state is State.READY and self._disk_told is not None:
            self.dispatcher.disk_suspects.clear()
            self._warn_of_little_disk(self._disk_told.capacity)

    def _warn_of_little_disk(self, capacity: int) -> None:
        loaded = self.child.status.loaded
        if loaded is not None and (prompt := loaded.kv.nbytes(LITTLE_PROMPT)) > capacity:
            entry = Entry(
                "little KV on disk",
                model=self.config.id,
                at_most=in_words(capacity),
                **{f"{LITTLE_PROMPT}_tokens": in_words(prompt)},
            )
            log.warning(entry)

    def on_load_progress(self) -> None:
        """Tell the generations that wait that the process has loaded more of the model."""
        self.dispatcher.on_load_progress()

    def on_measured_at_start(self, nbytes: int) -> None:
        """Record what a process takes once it has loaded the model."""
        self.at_start = nbytes

    def on_retry_due(self) -> None:
        """Tell the node that the slow retry of the model is due."""
        self._host.on_retry_due(self)

    def take_lost_requests(self) -> list[str]:
        """Return the names of the requests lost since the last call."""
        return self.dispatcher.log.take_lost_requests()

    # --- reports ---

    def status(self) -> ModelStatus:
        """Return a snapshot for reports."""
        child, life = self.child, self.child.lifecycle
        kv_bytes = self.running_kv_bytes
        kv_limit = min(self._load.kv_bytes, self._load.cache_bytes)
        return ModelStatus(
            config=self.config,
            state=child.state,
            reason=child.reason,
            start_blocked_by=self.start_blocked_by,
            coming_back=child.coming_back,
            given_up=life.given_up,
            has_lost_its_device=life.has_lost_its_device,
            next_try=life.next_try,
            retry_after=child.retry_after,
            recent_ends=child.recent_ends,
            given_up_after=life.given_up_after,
            restarts_by=life.restarts_by.copy(),
            stalls=life.stalls,
            resumes=self.dispatcher.log.resumes,
            loops=self.dispatcher.log.loops,
            last_exit=child.last_exit,
            entered_at=child.entered_at.copy(),
            child=child.status,
            running=self.admission.running,
            running_peak=self.admission.peak,
            queued=self.admission.queued,
            generated_tokens=child.token_stats.tokens,
            context_length=self.planned.context_length,
            expected_bytes=self.at_start or self.estimated_bytes,
            kv_budget_bytes=self._load.kv_bytes,
            running_kv_bytes=kv_bytes,
            kv_usage=min(1.0, kv_bytes / kv_limit) if kv_limit else 1.0,
            warnings=self.planned.warnings,
            disk_settings=self._disk_cache,
            disk=child.disk_totals.latest,
            disk_reported_at=child.disk_totals.reported_at,
            kv_events=self.kv_events.state,
        )
