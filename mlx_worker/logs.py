"""The log: one event a line, as JSON for programs or as text for a terminal.

An `Entry` is an event and its facts; any other message is an event without facts. A child writes
all its records as JSON lines on its stderr. The front reads them, keeps the last ones for a crash
report, and applies its own level. So a level changes in one place, for running processes too. No
thread that logs waits for a write: see `log_writer`. [both]
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import re
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.errors import ConfigError
from mlx_worker.json_output import encode, encode_with_str
from mlx_worker.log_writer import (
    STDERR,
    Descriptor,
    Dropped,
    LogWriter,
    PipeDescriptor,
    RotatingFile,
    Sink,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_worker.config.schema import LogConfig

OWN_LOGGER: Final = "mlx_worker"
"""The logger of this package, whose level is configured; other loggers log from WARNING on."""

LINE: Final = ("at", "level", "logger", "event", "exception")
"""Keys of a JSON line that are no facts; `exception` is optional."""


COMPUTATION_FAILED: Final = "computation failed"
"""The event of a child that ends because its results cannot be trusted, with its `reason`."""

_SPECIAL: Final = re.compile(r'[\s"=]')


class Entry:
    """An event and its facts; as text, the facts follow the event as name=value."""

    __slots__ = ("event", "facts")

    def __init__(self, event: str, /, **facts: Any) -> None:
        self.event = event
        self.facts = facts

    def __str__(self) -> str:
        return " ".join(
            [self.event, *(f"{name}={_text(value)}" for name, value in self.facts.items())]
        )


def _text(value: Any) -> str:
    """Return a value as one word; "-" for None."""
    if value is None or value == "":
        return "-"
    plain = isinstance(value, str) and not _SPECIAL.search(value)
    return value if plain else encode(value).decode()


class JsonLines(logging.Formatter):
    """A JSON object a line: `at` (UTC), `level`, `logger`, `event`, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one record as one line."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        line |= _event_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return encode_with_str(line).decode()


def _event_of(record: logging.LogRecord) -> dict[str, Any]:
    if isinstance(record.msg, Entry):
        return {"event": record.msg.event} | record.msg.facts
    return {"event": record.getMessage()}


class Console(logging.Formatter):
    """Format records for a person at a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


DROPPED: Final = Dropped()
"""Log lines of this process, and lines of its children, that were not written."""

FLUSH: Final = 2.0
"""Seconds for writing the last lines: a stalled stderr must not delay the exit."""

OPENING: Final = 2.0
"""Seconds for opening `log.file`; a disk that stalls for longer does not delay the start."""


class QueueingHandler(logging.Handler):
    """Hand each record, formatted, to the thread that writes."""

    def __init__(self, sink: Sink, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._writer = LogWriter(sink, self._notice, DROPPED)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  (a record that cannot be formatted ends no request)
            DROPPED.add(1)
        else:
            self._writer.put(line)

    def flush(self) -> None:
        """Wait for the queue, a bounded time. `logging` does so when the process ends."""
        self._writer.flush(FLUSH)

    def _notice(self, lines: int) -> str:
        entry = Entry("log lines dropped", count=lines)
        record = logging.LogRecord(OWN_LOGGER, logging.WARNING, "", 0, entry, (), None)
        return self.format(record)


def set_up(config: LogConfig) -> None:
    """Make this process log as the configuration says. Raises ConfigError if it cannot."""
    _write_to(_handler(config), config.level)


def set_up_child() -> None:
    """Have this process say everything, in lines that the front can read."""
    _write_to(QueueingHandler(PipeDescriptor(STDERR), JsonLines()), "debug")


def flush() -> None:
    """Wait, a bounded time, until what was logged is written."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _write_to(handler: logging.Handler, level: str) -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    set_level(level)


def _handler(config: LogConfig) -> logging.Handler:
    if config.file is None:
        json = config.format == "json" or (config.format == "auto" and not os.isatty(STDERR))
        return QueueingHandler(Descriptor(STDERR), JsonLines() if json else Console())
    file = RotatingFile(config.file, config.max_bytes, config.keep)
    _open(file, config.file)
    return QueueingHandler(file, Console() if config.format == "console" else JsonLines())


def _open(file: RotatingFile, path: Path) -> None:
    """Open the log's file on a thread that may be left waiting. Raises ConfigError."""
    outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def open_file() -> None:
        try:
            file.open()
        except OSError as error:
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=open_file, name="open log.file", daemon=True).start()
    try:
        error = outcome.get(timeout=OPENING)
    except queue.Empty:
        return
    # ENXIO: a FIFO without a reader. Lines are dropped until there is one.
    if error is not None and error.errno != errno.ENXIO:
        raise ConfigError(f"log.file: {path}: {error.strerror}") from error


def level() -> str:
    """Return the least severe level that is logged."""
    return logging.getLevelName(logging.getLogger(OWN_LOGGER).level).lower()


def set_level(name: str) -> None:
    """Show what is of this level or above, from now on."""
    logging.getLogger(OWN_LOGGER).setLevel(name.upper())


def parse_line(line: str) -> tuple[int, Entry] | None:
    """Return the level and the entry of a line that `JsonLines` wrote; None for any other line."""
    if not line.startswith('{"at":'):
        return None
    try:
        said = msgspec.json.decode(line, type=dict[str, Any])
        facts = {
            name: value for name, value in said.items() if name not in LINE or name == "exception"
        }
        return logging.getLevelNamesMapping()[said["level"].upper()], Entry(said["event"], **facts)
    except (msgspec.MsgspecError, KeyError, AttributeError, TypeError):
        return None


class RecordCallback(logging.Handler):
    """Calls a function with every record of this package that is logged, in the logging thread."""

    def __init__(self, tell: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Call the function with the record."""
        self._tell(record)
