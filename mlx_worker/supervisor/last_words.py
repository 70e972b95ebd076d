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

from mlx_worker.logs import COMPUTATION_FAILED, Entry, read

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.supervisor.ring import Ring

log = logging.getLogger(__name__)

KEPT = 100
"""Lines of one process."""

KEPT_OF_MODEL = 1000
"""Lines of one model, whichever of its processes wrote them."""

LONGEST = 2000
"""Characters of a line; the rest of it is a line of its own."""

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

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._pid = process.pid
        self._model = ""
        self._of_model: Ring[Line] | None = None
        self.computation_failure = ""
        """Why it ended itself, where it did because what it computed could not be trusted."""
        self._kept: deque[str] = deque(maxlen=KEPT)
        assert process.stderr is not None, "it was started with a pipe there"
        self._reading = asyncio.create_task(self._read(process.stderr), name=f"stderr {self._pid}")

    @property
    def lines(self) -> list[str]:
        """What it wrote last, oldest first."""
        return list(self._kept)

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
            self._keep(lines)
        self._keep([rest])

    def _keep(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.strip():
                self._take(line)

    def _take(self, line: str) -> None:
        """A line of the child's own log is told as what it is, any other as what was written."""
        whose = {"model": self._model, "pid": self._pid}
        if (said := read(line)) is not None:
            level, entry = said
            if entry.event == COMPUTATION_FAILED:
                self.computation_failure = str(entry.facts.get("reason", ""))
            text = str(entry)[:LONGEST]
            if log.isEnabledFor(level):
                log.log(level, Entry(entry.event, **{**entry.facts, **whose}))
        else:
            level, text = logging.INFO, line[:LONGEST]
            log.info(Entry("stderr", **whose, line=text))
        self._kept.append(text)
        if self._of_model is not None:
            name = logging.getLevelName(level).lower()
            self._of_model.add(Line(time.time() * 1000, self._pid, name, text))


def device_error(lines: Iterable[str]) -> str:
    """What the device did to a process, in the words of its driver; "" for nothing of the kind."""
    found = [match.group() for line in lines for match in DEVICE_ERROR.finditer(line)]
    return next((it for it in reversed(found) if not it.endswith(HEALS)), "")


class DeviceErrors:
    """The device errors of one model's processes, in a row."""

    def __init__(self, limit: int = 3) -> None:
        self._limit = limit
        self._row: list[str] = []

    def ended(self, error: str) -> bool:
        """A process has ended, with this error or none. Has the device outlived too many?"""
        self._row = [*self._row, error] if error and {error} >= set(self._row) else [error]
        return bool(error) and len(self._row) >= self._limit

    def forget(self) -> None:
        """An operator has done something about it."""
        self._row.clear()
