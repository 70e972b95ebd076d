"""The progress of a download on stderr: a bar on a terminal, now and then a line elsewhere.

[front]
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from mlx_worker.config.sizes import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlx_worker.models.pull.progress import Progress

INTERVAL: Final = 5.0
"""Seconds between two lines."""


class ProgressLines:
    """Write the progress as lines: the first, one every `INTERVAL`, and the last."""

    def __init__(
        self,
        what: str,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._write = write
        self._clock = clock
        self._due = clock()
        self._is_done = False

    def __call__(self, done: int, total: int | None, /) -> None:
        """Write a line if one is due."""
        was_done, self._is_done = self._is_done, done == total
        now = self._clock()
        if now < self._due and (was_done or not self._is_done):
            return
        self._due = now + INTERVAL
        share = f" of {in_words(total)} ({done * 100 // total} %)" if total else ""
        self._write(f"{self._what}: {in_words(done)}{share}\n")


@contextmanager
def shown_progress(what: str) -> Iterator[Progress]:
    """Show the progress of a download inside the block."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLines(what, _write_line)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _write_line(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()
