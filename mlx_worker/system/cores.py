"""How many processor cores this process may use.

[both]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import psutil

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of the processors, in microseconds of each period: "200000 100000"."""


def usable_cores(quota: Path = _QUOTA) -> int:
    """Return the physical cores of the machine, or fewer where this process may use fewer."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    physical = psutil.cpu_count(logical=False)
    limits = [cores for cores in (physical, logical, _cores_of(quota)) if cores]
    return min(limits, default=1)


def _cores_of(quota: Path) -> int | None:
    """Return the whole cores of a container's quota; None without a quota."""
    try:
        share, period = quota.read_text(encoding="ascii").split()
        return max(1, int(share) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return None
