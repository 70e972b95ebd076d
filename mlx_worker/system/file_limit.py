"""The limit of open files, and the number of connections that it allows.

[front]
"""

from __future__ import annotations

import contextlib
import logging
import resource
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

ENOUGH: Final = 4096
"""For connections, pipes and the files of large models."""

FOR_THE_NODE: Final = 128
"""Open files beside connections and children: logs, libraries, models that are looked at."""

FOR_A_MODEL: Final = 8
"""Open files for a model's process: its pipe, its stderr, and both again while one replaces it."""


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    """Numbers of connections: `working` for requests, and `beside` them for health."""

    working: int
    beside: int


def raise_limit(wanted: int) -> int:
    """Raise the soft limit towards `wanted` open files. Return the number that may be open.

    launchd allows 256 by default, and many systems 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return soft


def wanted_files(places: ConnectionBudget, models: int) -> int:
    """Return the number of files that the connections, the node and the models need."""
    return places.working + places.beside + FOR_THE_NODE + models * FOR_A_MODEL


def connection_budget(files: int, wanted: ConnectionBudget, models: int) -> ConnectionBudget:
    """Return the connections that `files` open files leave room for, `wanted` at most.

    Children and health come first: without files for them a full node could neither restart a
    model nor say that it is full.
    """
    if files >= wanted_files(wanted, models):
        return wanted
    kept = min(FOR_THE_NODE + models * FOR_A_MODEL, files // 2)
    free = max(2, files - kept)
    beside = max(1, min(wanted.beside, free // 4))
    return ConnectionBudget(min(wanted.working, free - beside), beside)


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
