"""A frozen snapshot of one model, for health reports, metrics, the dashboard and its history.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_worker.errors import ModelLoading

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.kv_events.feed import KvEventState
    from mlx_worker.supervisor.process.crash_report import ProcessExit
    from mlx_worker.supervisor.process.states import Event, State
    from mlx_worker.supervisor.process.status import ChildStatus
    from mlx_worker.wire.messages import DiskCache
    from mlx_worker.wire.prompt_cache import DiskState


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model at one moment.

    `child` has the reports of its process. `next_try` is on the event loop's clock, `retry_after`
    in seconds, `entered_at` in ms since the epoch. `recent_ends` are the ends of processes that
    count now, and how many are allowed. `given_up_after` are the ends that counted when the model
    was given up last. `running_peak` is the largest `running` since the last sample of the history.
    `kv_usage` is a share, 0 to 1. `disk_settings` None: no KV of the model is kept on disk. `disk`
    has the counts of all its processes, and is of `disk_reported_at` on `time.monotonic`; None
    before the first report. `kv_events` None: the model publishes none.
    """

    config: ModelConfig
    state: State
    reason: str
    start_blocked_by: WorkerError | None
    coming_back: bool
    given_up: bool
    has_lost_its_device: bool
    next_try: float | None
    retry_after: float
    recent_ends: tuple[int, int]
    given_up_after: int
    restarts_by: Counter[Event]
    stalls: int
    resumes: int
    loops: int
    last_exit: ProcessExit | None
    entered_at: Mapping[State, float]
    child: ChildStatus
    running: int
    running_peak: int
    queued: int
    generated_tokens: int
    context_length: int | None
    expected_bytes: int
    kv_budget_bytes: int
    running_kv_bytes: int
    kv_usage: float
    warnings: tuple[str, ...]
    disk_settings: DiskCache | None = None
    disk: DiskState | None = None
    disk_reported_at: float = 0.0
    kv_events: KvEventState | None = None

    @property
    def restarts(self) -> int:
        """Return how often a process was started again."""
        return self.restarts_by.total()

    @property
    def known_context_length(self) -> int | None:
        """Return the context length of the loaded model, else of its folder; None if unknown."""
        return self.child.loaded.context_length if self.child.loaded else self.context_length

    @property
    def is_being_inspected(self) -> bool:
        """True while nothing is known of the model's folder yet."""
        return isinstance(self.start_blocked_by, ModelLoading)
