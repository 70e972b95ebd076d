"""The log: one event a line, as JSON for programs or as text for a terminal.

An `Entry` is an event and its facts; any other message is an event without facts. A child writes
everything it has to say as JSON lines on its stderr: the front reads them, keeps the last ones for
when it dies, and its own level decides what is shown. So levels change in one place, at once, for
processes that run already. [both]
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config import LogConfig

OURS: Final = "mlx_worker"
"""The logger whose level is ours to set; other people's speak from WARNING on."""

LINE: Final = ("at", "level", "logger", "event", "exception")
"""What every JSON line says, or may; facts have other names."""


COMPUTATION_FAILED: Final = "computation failed"
"""The event of a child that ends because what it computed cannot be trusted; with its `reason`."""

_SPECIAL: Final = re.compile(r'[\s"=]')


class Entry:
    """An event and its facts. As text the facts stand behind it: name=value."""

    __slots__ = ("event", "facts")

    def __init__(self, event: str, /, **facts: Any) -> None:
        self.event = event
        self.facts = facts

    def __str__(self) -> str:
        return " ".join([self.event, *(f"{name}={_text(it)}" for name, it in self.facts.items())])


def _text(value: Any) -> str:
    """A value as one word; "-" for none."""
    if value is None or value == "":
        return "-"
    plain = isinstance(value, str) and not _SPECIAL.search(value)
    return value if plain else msgspec.json.encode(value).decode()


class JsonLines(logging.Formatter):
    """A JSON object a line: `at` (UTC), `level`, `logger`, `event`, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        line |= _said(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _said(record: logging.LogRecord) -> dict[str, Any]:
    if isinstance(record.msg, Entry):
        return {"event": record.msg.event} | record.msg.facts
    return {"event": record.getMessage()}


class Console(logging.Formatter):
    """For whoever reads along in a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


def set_up(config: LogConfig) -> None:
    """Have this process log as the configuration says. Raises ConfigError where it cannot."""
    _write_to(_handler(config), config.level)


def set_up_child() -> None:
    """Have this process say everything, in lines that the front can read."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    _write_to(handler, "debug")


def _write_to(handler: logging.Handler, level: str) -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    set_level(level)


def _handler(config: LogConfig) -> logging.Handler:
    handler: logging.Handler
    if config.file is None:
        handler = logging.StreamHandler(sys.stderr)
        json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    else:
        try:
            handler = RotatingFileHandler(
                config.file, maxBytes=config.max_bytes, backupCount=config.keep, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"log.file: {config.file}: {error.strerror}") from error
        json = config.format != "console"
    handler.setFormatter(JsonLines() if json else Console())
    return handler


def level() -> str:
    """From which level on things are shown."""
    return logging.getLevelName(logging.getLogger(OURS).level).lower()


def set_level(name: str) -> None:
    """Show what is of this level or above, from now on."""
    logging.getLogger(OURS).setLevel(name.upper())


def read(line: str) -> tuple[int, Entry] | None:
    """A line that `JsonLines` wrote: its level, and its event with all its facts.

    None for any other.
    """
    if not line.startswith('{"at":'):
        return None
    try:
        said = msgspec.json.decode(line, type=dict[str, Any])
        facts = {name: it for name, it in said.items() if name not in LINE or name == "exception"}
        return logging.getLevelNamesMapping()[said["level"].upper()], Entry(said["event"], **facts)
    except (msgspec.MsgspecError, KeyError, AttributeError, TypeError):
        return None


class Listener(logging.Handler):
    """Has a callback told of every record of ours that is shown, in the thread that logged it."""

    def __init__(self, tell: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Pass it on."""
        self._tell(record)
