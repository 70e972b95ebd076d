"""How a process of a child ended, and the `crash` event of an unexpected end.

[front]
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_worker.supervisor.process.launch.process import signal_name

if TYPE_CHECKING:
    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.wire.messages import Pong


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """How a process ended, in words, when (ms since the epoch), and the last lines of its stderr.

    `code` is an exit code as `subprocess` has it, `uptime` is in seconds. `in_flight` names the
    requests that the process worked on, `measured` is its last report of its memory.
    """

    how: str
    at: float
    lines: list[str]
    pid: int
    code: int
    uptime: float
    in_flight: list[str]
    measured: Pong | None


def report_crash(events: EventLog, model: str, ended: ProcessExit, reason: str) -> None:
    """Record a `crash` event with everything that is known of the process."""
    events.record(
        "crash",
        model,
        level=logging.WARNING,
        cause=reason or ended.how,
        how=ended.how,
        signal=signal_name(ended.code),
        exit_code=ended.code if ended.code >= 0 else None,
        pid=ended.pid,
        uptime_s=round(ended.uptime, 3),
        in_flight=ended.in_flight,
        resident_bytes=ended.measured.resident_bytes if ended.measured else None,
        device_bytes=ended.measured.device_bytes if ended.measured else None,
        lines=ended.lines,
    )
