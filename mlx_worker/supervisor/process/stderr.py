"""What a child's process writes to its stderr: into the log, and kept for when it has ended.

An abort in mlx leaves nothing else behind: the exception's text, and faulthandler's frames. [front]
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

from mlx_worker.logs import COMPUTATION_FAILED, DROPPED, Entry, read
from mlx_worker.supervisor.requests.rate_allowance import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_worker.supervisor.process.process import ChildProcess
    from mlx_worker.supervisor.ring_buffer import Ring

log = logging.getLogger(__name__)

KEPT = 100
"""Lines of one process."""

KEPT_OF_MODEL = 1000
"""Lines of one model, whichever of its processes wrote them."""

LONGEST = 2000
"""Characters of a line; the rest of it is a line of its own."""

LONGEST_CAUSE = 200
"""Characters of a line in the reason of an end."""

AT_ONCE, EACH_SECOND = 2_000, 1_000
"""Lines of one process that are logged. A flood beyond is read, so that the process is not held up,
and counted."""

SLICE = 100
"""Lines that are looked at before other work of the event loop has its turn: some 3 ms."""

REPORT_AFTER = 1.0
"""Seconds from the first dropped line of a flood to the line that says how many."""

_READ = 1 << 16

DEVICE_ERROR: Final = re.compile(r"kIOGPUCommandBufferCallbackError\w+|CUDA error: [^\n]{1,80}")
"""How mlx names what the device did to it: Metal's status, CUDA's message."""

HEALS: Final = "OutOfMemory"
"""The one device error that says nothing of the device: a smaller request may pass."""


class Line(msgspec.Struct, frozen=True):
    """What a model's process wrote: when (ms since the epoch), which process, how grave it is."""

    at: float
    pid: int
    level: str
    text: str


class LastWords:
    """The last lines of one process; its model's too, once it has one."""

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
        self._of_model: Ring[Line] | None = None
        self.computation_failure = ""
        """Why it ended itself, where it did because what it computed could not be trusted."""
        self._kept: deque[str] = deque(maxlen=KEPT)
        self._reading = asyncio.create_task(self._read(process.stderr), name=f"stderr {self._pid}")

    @property
    def lines(self) -> list[str]:
        """What it wrote last, oldest first."""
        return list(self._kept)

    def cause(self, how: str) -> str:
        """Say how the process ended, with the last line that is no line of its log."""
        return f"{how}: {self._last_written[:LONGEST_CAUSE]}" if self._last_written else how

    def of(self, model: str, ring: Ring[Line]) -> None:
        """From here on these are the words of a model, which are kept for longer."""
        self._model, self._of_model = model, ring

    async def complete(self, within: float) -> list[str]:
        """The same once its stderr is closed, or after so many seconds: another may hold it."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._reading), within)
        return self.lines

    async def _read(self, stderr: asyncio.StreamReader) -> None:
        rest = ""
        while data := await stderr.read(_READ):
            *lines, rest = (rest + data.decode(errors="replace")).split("\n")
            while len(rest) > LONGEST:
                lines.append(rest[:LONGEST])
                rest = rest[LONGEST:]
            await self._keep(lines)
        await self._keep([rest])
        self._report_dropped()

    async def _keep(self, lines: list[str]) -> None:
        for start in range(0, len(lines), SLICE):
            if start:
                await asyncio.sleep(0)
            for line in lines[start : start + SLICE]:
                if line.strip():
                    self._take(line)

    def _take(self, line: str) -> None:
        """A line of the child's own log is told as what it is, any other as what was written."""
        if COMPUTATION_FAILED in line:
            self._note_failure(line)
        if not self._allowance.take():
            self._kept.append(line[:LONGEST])
            self._drop()
            return
        whose = {"model": self._model, "pid": self._pid}
        if (said := read(line)) is not None:
            level, entry = said
            text = str(entry)[:LONGEST]
            if log.isEnabledFor(level):
                log.log(level, Entry(entry.event, **{**entry.facts, **whose}))
        else:
            level, text = logging.INFO, line[:LONGEST]
            self._last_written = text.strip()
            log.info(Entry("stderr", **whose, line=text))
        self._kept.append(text)
        if self._of_model is not None:
            name = logging.getLevelName(level).lower()
            self._of_model.add(Line(time.time() * 1000, self._pid, name, text))

    def _note_failure(self, line: str) -> None:
        """Keep why the process ended itself, also where its lines are dropped."""
        said = read(line)
        if said is not None and said[1].event == COMPUTATION_FAILED:
            self.computation_failure = str(said[1].facts.get("reason", ""))

    def _drop(self) -> None:
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
    """What the device did to a process, in the words of its driver; "" for nothing of the kind."""
    found = [match.group() for line in lines for match in DEVICE_ERROR.finditer(line)]
    return next((it for it in reversed(found) if not it.endswith(HEALS)), "")


class DeviceErrors:
    """The device errors of one model's processes, in a row.

    Where the same request was in the hands of all of them, the request may be the cause: it is
    refused after a few crashes, and the device is not given up for it.
    """

    def __init__(self, limit: int = 3) -> None:
        self._limit = limit
        self._row: list[str] = []
        self._suspects: set[str] = set()

    def ended(self, error: str, in_flight: Iterable[str] = ()) -> bool:
        """Return whether the device has outlived too many processes.

        A process has ended with this error or none, and with these requests in its hands.
        """
        if error and {error} >= set(self._row):
            self._suspects = self._suspects & set(in_flight) if self._row else set(in_flight)
            self._row.append(error)
        else:
            self._row, self._suspects = [error], set(in_flight)
        return bool(error) and len(self._row) >= self._limit and not self._suspects

    def forget(self) -> None:
        """An operator has done something about it."""
        self._row.clear()
