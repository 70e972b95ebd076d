"""The end of a child whose results can no longer be trusted.

The process ends at once, without Python's own clean-up, which may wait for the device that failed.
Unconfirmed messages are not sent, no cached prompt outlives the process, and the front continues in
a new process from the last token that the front has. [child]
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_worker.engine.checks.computation import ComputationFailed
from mlx_worker.errors import cause_of
from mlx_worker.logs import COMPUTATION_FAILED, Entry, JsonLines

if TYPE_CHECKING:
    from typing import NoReturn

EXIT_COMPUTATION_FAILED: Final = 74
"""EX_IOERR of sysexits.h; a child uses this status for no other reason."""

FRAMES: Final = 6
"""Stack frames that are logged of an unexpected error."""

REASON: Final = 300
"""Characters of an error's text that are logged, at most."""


def end_process(error: Exception) -> NoReturn:
    """Write the reason to stderr, for the front, and end the process.

    The logger's handlers are not used: they may write later, after the end of the process.
    """
    entry = Entry(COMPUTATION_FAILED, reason=reason_of(error), frames=frames_of(error))
    record = logging.LogRecord(__name__, logging.CRITICAL, "", 0, entry, (), None)
    line = JsonLines().format(record) + "\n"
    try:
        os.write(sys.stderr.fileno(), line.encode())
    finally:
        os._exit(EXIT_COMPUTATION_FAILED)


def reason_of(error: Exception) -> str:
    """Return the text of an error of mlx, the device or the guard; of any other error its type.

    Another error's text may quote a prompt or an answer.
    """
    if isinstance(error, ComputationFailed):
        return str(error)[:REASON]
    if isinstance(error, RuntimeError | MemoryError):
        return cause_of(error)[:REASON]
    return type(error).__name__


def frames_of(error: BaseException) -> list[str]:
    """Return the innermost stack frames of an error, without their values."""
    innermost = error.__cause__ or error
    frames = traceback.extract_tb(innermost.__traceback__)[-FRAMES:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
