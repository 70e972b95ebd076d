"""Logs what a child's process writes to its stderr, and keeps the last lines for a crash report.

After an abort in mlx, stderr is the only trace: the exception's text and faulthandler's frames.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.logs import COMPUTATION_FAILED, DROPPED, Entry, parse_line
from mlx_worker.supervisor.requests.rate_allowance import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_worker.supervisor.process.launch.process import ChildProcess
    from mlx_worker.supervisor.ring_buffer import RingBuffer

log = logging.getLogger(__name__)

KEPT_LINES = 100
"""Lines of one process."""

KEPT_LINES_OF_MODEL = 1000
"""Lines of one model, from all its processes."""

MAX_LINE = 2000
"""Characters of a line; the rest of it is a line of its own."""

MAX_CAUSE = 200
"""Characters of a line in the reason of an end."""

AT_ONCE, EACH_SECOND = 2_000, 1_000
"""Lines of one process that are logged. Further lines are read, so that the process does not block,
and counted."""

SLICE = 100
"""Lines that are handled before the event loop does other work: some 3 ms."""

REPORT_AFTER = 1.0
"""Seconds from the first dropped line of a flood to the line that says how many."""

_READ_BYTES = 1 << 16

DEVICE_ERROR: Final = re.compile(r"kIOGPUCommandBufferCallbackError\w+|CUDA error: [^\n]{1,80}")
"""The name of a device error in mlx: Metal's status, CUDA's message."""

TRANSIENT_ERROR: Final = "OutOfMemory"
"""The end of the device error that a smaller request may not cause."""


class StderrLine(msgspec.Struct, frozen=True):
    """One line of stderr: `at` in ms since the epoch, the process, the log level, the text."""

    at: float
    pid: int
    level: str
    text: str


class StderrTail:
    """The last lines of one process, and of its model once the process has one."""

    def __init__(
        self,
        process: ChildProcess,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid = process.pid
        self._allowance = Allowance(AT_ONCE, EACH_SECOND, clock)
        self._unreported = 0
        self._last_written = ""
        self._model = ""
        self._of_model: RingBuffer[StderrLine] | None = None
        self.computation_failure = ""
        """Why the process ended itself, if it could not trust its own computation; "" otherwise."""
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._reading = asyncio.create_task(self._read(process.stderr), name=f"stderr {self._pid}")

    @property
    def lines(self) -> list[str]:
        """Return the last lines, the oldest first."""
        return list(self._kept)

    def cause(self, how: str) -> str:
        """Return how the process ended, with its last line that is no line of its log."""
        return f"{how}: {self._last_written[:MAX_CAUSE]}" if self._last_written else how

    def attach_model(self, model: str, lines: RingBuffer[StderrLine]) -> None:
        """Keep further lines among those of a model, which are kept for longer."""
        self._model, self._of_model = model, lines

    async def complete(self, within: float) -> list[str]:
        """Return the last lines once stderr is closed, or after `within` seconds.

        Another process may keep stderr open.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._reading), within)
        return self.lines

    async def _read(self, stderr: asyncio.StreamReader) -> None:
        rest = ""
        while data := await stderr.read(_READ_BYTES):
            *lines, rest = (rest + data.decode(errors="replace")).split("\n")
            while len(rest) > MAX_LINE:
                lines.append(rest[:MAX_LINE])
                rest = rest[MAX_LINE:]
            await self._keep(lines)
        await self._keep([rest])
        self._report_dropped()

    async def _keep(self, lines: list[str]) -> None:
        for start in range(0, len(lines), SLICE):
            if start:
                await asyncio.sleep(0)
            for line in lines[start : start + SLICE]:
                if line.strip():
                    self._on_line(line)

    def _on_line(self, line: str) -> None:
        """Log a line of the child's own log with its level and facts, any other line as text."""
        if COMPUTATION_FAILED in line:
            self._note_failure(line)
        if not self._allowance.try_spend():
            self._kept.append(line[:MAX_LINE])
            self._count_dropped()
            return
        origin = {"model": self._model, "pid": self._pid}
        if (parsed := parse_line(line)) is not None:
            level, entry = parsed
            text = str(entry)[:MAX_LINE]
            if log.isEnabledFor(level):
                log.log(level, Entry(entry.event, **{**entry.facts, **origin}))
        else:
            level, text = logging.INFO, line[:MAX_LINE]
            self._last_written = text.strip()
            log.info(Entry("stderr", **origin, line=text))
        self._kept.append(text)
        if self._of_model is not None:
            name = logging.getLevelName(level).lower()
            self._of_model.add(StderrLine(time.time() * 1000, self._pid, name, text))

    def _note_failure(self, line: str) -> None:
        """Keep why the process ended itself, even if its lines are dropped."""
        parsed = parse_line(line)
        if parsed is not None and parsed[1].event == COMPUTATION_FAILED:
            self.computation_failure = str(parsed[1].facts.get("reason", ""))

    def _count_dropped(self) -> None:
        DROPPED.add(1)
        self._unreported += 1
        if self._unreported == 1:
            asyncio.get_running_loop().call_later(REPORT_AFTER, self._report_dropped)

    def _report_dropped(self) -> None:
        count, self._unreported = self._unreported, 0
        if count:
            log.warning(
                Entry("stderr lines dropped", model=self._model, pid=self._pid, count=count)
            )


def device_error(lines: Iterable[str]) -> str:
    """Return the last device error in these lines, as the driver names it; "" for none."""
    found = [match.group() for line in lines for match in DEVICE_ERROR.finditer(line)]
    return next((error for error in reversed(found) if not error.endswith(TRANSIENT_ERROR)), "")


class DeviceErrors:
    """Counts the device errors that ended one model's processes, in a row.

    If all of these processes worked on the same request, the request may be the cause. It is
    refused after a few crashes, and the device is not given up for it.
    """

    def __init__(self, limit: int = 3) -> None:
        self._limit = limit
        self._errors_in_a_row: list[str] = []
        self._suspects: set[str] = set()

    def count_end(self, error: str, in_flight: Iterable[str] = ()) -> bool:
        """Count a process that ended with this error, "" for none, and with these requests in work.

        Return True if new processes do not heal the device.
        """
        if error and {error} >= set(self._errors_in_a_row):
            self._suspects = (
                self._suspects & set(in_flight) if self._errors_in_a_row else set(in_flight)
            )
            self._errors_in_a_row.append(error)
        else:
            self._errors_in_a_row, self._suspects = [error], set(in_flight)
        return bool(error) and len(self._errors_in_a_row) >= self._limit and not self._suspects

    def reset(self) -> None:
        """Forget the counted errors: an operator has acted."""
        self._errors_in_a_row.clear()
