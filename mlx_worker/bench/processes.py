"""CPU time and resident memory of the processes of a server.

[bench]
"""

from __future__ import annotations

import asyncio
import contextlib
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Roles: TypeAlias = "Mapping[str, Sequence[int]]"
"""Process ids by what they do: front, child, server, engine."""

TICK = 0.01
"""Seconds in which the kernel counts CPU time, on Linux: no moment is known better."""

WATCHED = 0.3
"""Seconds over which a server must be quiet to be idle."""

BUSY = 0.1
"""Share of a core from which it is not."""

LOOK_EVERY = 0.005


def cpu_seconds(roles: Roles) -> dict[str, float]:
    """Return user and system time so far, by role; a process that has ended counts nothing."""
    return {role: sum(map(_cpu, pids)) for role, pids in roles.items()}


def cpu_since(before: Mapping[str, float], roles: Roles) -> dict[str, float]:
    """Return user and system time since then, by role."""
    return {role: now - before[role] for role, now in cpu_seconds(roles).items()}


def resident_megabytes(roles: Roles) -> dict[str, float]:
    """Return the resident memory now, by role."""
    return {role: sum(map(_resident, pids)) / 1e6 for role, pids in roles.items()}


def family(pid: int) -> list[int]:
    """Return a process and all its descendants; [] if the process has ended."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _cpu(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _resident(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(psutil.Process(pid).memory_info().rss)
    return 0.0


async def until_used(roles: Roles, seconds: float, deadline: float) -> bool:
    """Wait until the processes have used this much more CPU time; False at the deadline."""
    before = sum(cpu_seconds(roles).values())
    while sum(cpu_seconds(roles).values()) - before < seconds:
        if perf_counter() > deadline:
            return False
        await asyncio.sleep(LOOK_EVERY)
    return True


async def until_idle(roles: Roles, deadline: float) -> float:
    """Return the first moment (of `perf_counter`) from which the processes are idle.

    Returns the deadline if they are not idle before it.
    """
    seen: list[tuple[float, float]] = []
    while (now := perf_counter()) < deadline:
        seen.append((now, sum(cpu_seconds(roles).values())))
        while seen[-1][0] - seen[0][0] >= WATCHED:
            (since, then), (_, used) = seen[0], seen[-1]
            if used - then < BUSY * WATCHED:
                return since
            del seen[0]
        await asyncio.sleep(LOOK_EVERY)
    return deadline
