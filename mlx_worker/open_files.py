"""The limits of open files that a process and its children live under. [front]"""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger(__name__)

ENOUGH: Final = 4096
"""For connections, pipes and the files of large models."""


def few_files_allowed() -> int | None:
    """Return the hard limit where that is low, else None."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY or hard >= ENOUGH else hard


def warn_of_few_files() -> None:
    """Log a hard limit that is low: nothing in the node can raise that limit."""
    if (most := few_files_allowed()) is not None:
        log.warning(
            "the hard limit allows at most %d files to be open in the node and in each model's"
            " process (`ulimit -Hn`): raise the limit to %d or more",
            most,
            ENOUGH,
        )
