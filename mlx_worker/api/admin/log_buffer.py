"""Keep the last lines of the node's log, for readers without access to the log file.

[front]
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self

import msgspec
from aiohttp import web

from mlx_worker.logs import OWN_LOGGER, RecordCallback
from mlx_worker.supervisor.ring_buffer import RingBuffer

if TYPE_CHECKING:
    from types import TracebackType

MAX_LINES: Final = 1000


class LogLine(msgspec.Struct, frozen=True):
    """One line of the log; `at` is in ms since the epoch."""

    at: float
    level: str
    text: str


class LogBuffer:
    """Keeps what the `mlx_worker` logger shows while the context is entered."""

    def __init__(self) -> None:
        self.lines: RingBuffer[LogLine] = RingBuffer(MAX_LINES)
        self._loop = asyncio.get_running_loop()
        self._handler = RecordCallback(self._on_record)

    def __enter__(self) -> Self:
        logging.getLogger(OWN_LOGGER).addHandler(self._handler)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        logging.getLogger(OWN_LOGGER).removeHandler(self._handler)

    def _on_record(self, record: logging.LogRecord) -> None:
        """Add a record, on any thread; the ring belongs to the event loop's thread."""
        line = LogLine(record.created * 1000, record.levelname.lower(), record.getMessage())
        self._loop.call_soon_threadsafe(self.lines.add, line)


LOG_BUFFER: web.AppKey[LogBuffer] = web.AppKey("log_buffer", LogBuffer)
