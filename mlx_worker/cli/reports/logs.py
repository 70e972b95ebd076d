"""The log lines of a node: the last ones, and new ones as they are written.

[front]
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mlx_worker.cli.client import NodeClient

DEFAULT_LINES: Final = 100
"""Lines that are printed where neither a number nor a time is asked for."""

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_TIME_OF_DAY: Final = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines are printed: those of a level or above, from a moment on, and the last ones.

    `since` is in seconds since the epoch. None: all levels, all times, all lines.
    """

    level: str | None = None
    since: float | None = None
    last: int | None = None

    def matches(self, line: Mapping[str, Any]) -> bool:
        """Return True if the line has the level, and is not from before `since`."""
        if self.since is not None and line["at"] / 1000 < self.since:
            return False
        return self.level is None or _severity(line["level"]) >= _severity(self.level)

    def chosen(self, lines: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Return the lines that are printed of those that the node has kept."""
        matching = [line for line in lines if self.matches(line)]
        return matching if self.last is None else matching[max(0, len(matching) - self.last) :]


def _severity(level: str) -> int:
    """Return the number of a level; a level that is not known counts as `info`."""
    return logging.getLevelNamesMapping().get(level.upper(), logging.INFO)


async def kept_lines(node: NodeClient, model: str | None) -> list[dict[str, Any]]:
    """Return the lines that the node has kept, of one model or of all."""
    lines: list[dict[str, Any]] = (await node.get("/admin/logs", model=model))["lines"]
    return lines


async def following(
    node: NodeClient, model: str | None, after: int
) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the lines after that number as they are written, until the node ends."""
    query = {"model": model, "after": str(after)}
    async with node.events("GET", "/admin/logs/stream", **query) as events:
        async for event in events:
            yield event


def format_line(line: Mapping[str, Any]) -> str:
    """Return one line with its time (this machine's clock), its level and a model's process.

    A line of another day has its date.
    """
    at = time.localtime(line["at"] / 1000)
    is_of_today = time.strftime("%x", at) == time.strftime("%x")
    moment = time.strftime("%H:%M:%S" if is_of_today else "%Y-%m-%d %H:%M:%S", at)
    process = f" [{line['pid']}]" if "pid" in line else ""
    return f"{moment} {line['level']}{process} {line['text']}"


def read_since(text: str, now: float) -> float:
    """Return the moment that a user means, in seconds since the epoch.

    "90s", "10m", "2h" and "1d" count back from `now`; "14:05" is a time of today, and
    "2026-02-03" or "2026-02-03T14:05" a date; in this machine's time zone unless another is
    named. Raises ValueError.
    """
    if span := _SPAN.fullmatch(text):
        return now - float(span[1]) * _SECONDS[span[2]]
    if _TIME_OF_DAY.fullmatch(text):
        today = datetime.fromtimestamp(now).astimezone().date().isoformat()
        text = f"{today}T{text:0>5}" if text.count(":") == 1 else f"{today}T{text:0>8}"
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no time such as 10m, 2h, 14:05 or 2026-02-03T14:05"
        ) from error
