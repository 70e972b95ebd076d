"""A plugin of coverage.py: save what was measured when a process leaves through `os._exit`.

coverage's own patch of this name saves while other threads are still measured. Saving frees what
the C tracer of such a thread writes to, and a child that leaves in the thread of its pipe dies of
SIGSEGV, one in seven. So the measurement is stopped first: each tracer then ends in its own thread.
Runs in every process of `tox -e cov`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from coverage import Coverage

if TYPE_CHECKING:
    from coverage.plugin_support import Plugins

EXIT = os._exit


def exit_measured(status: int) -> NoReturn:
    """Stop measuring, save, and end the process."""
    try:
        measurement = Coverage.current()
        if measurement is not None:
            measurement.stop()
            measurement.save()
    finally:
        EXIT(status)


def coverage_init(_plugins: Plugins, _options: dict[str, str]) -> None:
    """Take the place of `os._exit`; coverage calls this as a process starts to be measured."""
    os._exit = exit_measured
