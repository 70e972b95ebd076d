"""What a child needs of the model that the child runs, and what a child reports to the model.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mlx_worker.supervisor.kv_events.log import KvEventLog
from mlx_worker.supervisor.process.disk_totals import DiskTotals
from mlx_worker.supervisor.process.launch.stderr import (
    KEPT_LINES_OF_MODEL,
    DeviceErrors,
    StderrLine,
)
from mlx_worker.supervisor.requests.token_stats import TokenStats
from mlx_worker.supervisor.ring_buffer import RingBuffer

if TYPE_CHECKING:
    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.process.launch.launcher import Launch
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.pause import PauseDetector
    from mlx_worker.supervisor.process.states import State
    from mlx_worker.wire.messages import Load


class ChildHost(Protocol):
    """The model that a child runs."""

    @property
    def load(self) -> Load:
        """Return the message that tells a new process what to load."""

    @property
    def is_busy(self) -> bool:
        """True if requests of any kind need the model now."""

    def on_state_entered(self, state: State) -> None:
        """Handle a new state of the child, once the child has carried out what the state means."""

    def on_load_progress(self) -> None:
        """Handle that the process has loaded more of the model."""

    def on_measured_at_start(self, nbytes: int) -> None:
        """Handle the first measured memory of a process that has loaded the model."""

    def on_retry_due(self) -> None:
        """Handle that the slow retry of a model that was given up is due."""

    def take_lost_requests(self) -> list[str]:
        """Return the names of the requests lost since the last call."""


@dataclass(frozen=True, slots=True)
class ChildContext:
    """What all processes of one child share.

    `launch` starts a process; `pause` detects that the node itself did not run.
    """

    model: str
    host: ChildHost
    timings: Timings
    launch: Launch
    pause: PauseDetector
    events: EventLog
    token_stats: TokenStats = field(default_factory=TokenStats)
    lines: RingBuffer[StderrLine] = field(default_factory=lambda: RingBuffer(KEPT_LINES_OF_MODEL))
    device_errors: DeviceErrors = field(default_factory=DeviceErrors)
    disk_totals: DiskTotals = field(default_factory=DiskTotals)
    kv_log: KvEventLog = field(default_factory=KvEventLog)
