"""Standard streams that were closed when the process began are filled with the null device.

Without this, the first files that a process opens take the numbers 0 to 2: a socket becomes its
stderr, and a child that inherits a hole there aborts before its first line. [front]
"""

from __future__ import annotations

import os
import sys
from typing import Final

NUMBERS: Final = (0, 1, 2)


def fill_closed_streams() -> None:
    """Open the null device as each of stdin, stdout and stderr that is closed."""
    for number in NUMBERS:
        if not _is_open(number):
            # The lowest free number is taken, and those below this one are in use.
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    # Python has None in place of a stream that was closed at the start.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
