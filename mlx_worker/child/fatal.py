"""How a child ends when what it computes can no longer be trusted.

At once, and without Python's own clean-up, which may wait for the very device that failed: nothing
that is held back is sent, no cached prompt outlives the process, and the front goes on in a fresh
one from the last token that it has. [child]
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_worker.engine.guard import ComputationFailed
from mlx_worker.errors import cause_of
from mlx_worker.logs import COMPUTATION_FAILED, Entry, JsonLines

if TYPE_CHECKING:
    from typing import NoReturn

EXIT_COMPUTATION_FAILED: Final = 74
"""EX_IOERR of sysexits.h; a child ends with this status for no other reason."""

FRAMES: Final = 6
"""Of the place where something unforeseen happened."""

REASON: Final = 300
"""Characters of what an error says, at most."""


def end_process(error: Exception) -> NoReturn:
    """Write why to stderr, for the front, and end the process.

    Not through the logger's handlers: those may write later, and there is no later.
    """
    entry = Entry(COMPUTATION_FAILED, reason=reason_of(error), frames=frames_of(error))
    record = logging.LogRecord(__name__, logging.CRITICAL, "", 0, entry, (), None)
    line = JsonLines().format(record) + "\n"
    try:
        os.write(sys.stderr.fileno(), line.encode())
    finally:
        os._exit(EXIT_COMPUTATION_FAILED)


def reason_of(error: Exception) -> str:
    """Return what mlx, the device or the guard said, and of any other error its type alone.

    Another error's text may quote what was asked or answered.
    """
    if isinstance(error, ComputationFailed):
        return str(error)[:REASON]
    if isinstance(error, RuntimeError | MemoryError):
        return cause_of(error)[:REASON]
    return type(error).__name__


def frames_of(error: BaseException) -> list[str]:
    """Return the innermost places that an error came through, without what they held."""
    innermost = error.__cause__ or error
    frames = traceback.extract_tb(innermost.__traceback__)[-FRAMES:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
