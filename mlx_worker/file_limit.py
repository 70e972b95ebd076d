"""How many files the process may open, and how many connections that leaves. [front]"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass
from typing import Final

FOR_THE_NODE: Final = 128
"""Open files beside connections and children: logs, libraries, models that are looked at."""

FOR_A_MODEL: Final = 8
"""Open files for a model's process: its pipe, its stderr, and both again while one replaces it."""


@dataclass(frozen=True, slots=True)
class Places:
    """Connections that may do work, and those beside them that may ask for health."""

    working: int
    beside: int


def raise_limit(wanted: int) -> int:
    """Raise the soft limit towards `wanted` open files. Return the number that may be open.

    launchd allows 256 where nobody says otherwise, and many systems 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return soft


def wanted_files(places: Places, models: int) -> int:
    """Return the number of files that all of it takes."""
    return places.working + places.beside + FOR_THE_NODE + models * FOR_A_MODEL


def places_within(files: int, wanted: Places, models: int) -> Places:
    """Return the connections that `files` open files leave room for, `wanted` at most.

    Children and health come first: without files for them a full node could neither restart a
    model nor say that it is full.
    """
    if files >= wanted_files(wanted, models):
        return wanted
    kept = min(FOR_THE_NODE + models * FOR_A_MODEL, files // 2)
    free = max(2, files - kept)
    beside = max(1, min(wanted.beside, free // 4))
    return Places(min(wanted.working, free - beside), beside)
