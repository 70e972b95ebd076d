"""The measure by which the system judges a process's memory.

On macOS that is `phys_footprint`: resident memory omits what is compressed or held by the GPU, and
MLX's own count omits everything else. On other systems it is the resident set. If the GPU has
memory of its own, it is the larger of that and MLX's own count: either may reach its limit first.
[child]
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx

from mlx_worker.child.working_set import has_own_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import psutil

    Usage = Callable[[int], bytes]
    """Return the system's structure about a process id, as bytes."""

RUSAGE_INFO_V2: Final = 2
_INFO: Final = struct.Struct("=16s 18Q")
"""`struct rusage_info_v2` (sys/resource.h): a UUID, then 18 numbers."""
_PHYS_FOOTPRINT: Final = 8
"""Index of the field: behind the UUID, user and system time, two kinds of wakeups, page-ins, wired
and resident size."""


def footprint_of(
    process: psutil.Process,
    platform: str = sys.platform,
    on_device: Callable[[], int] | None = None,
) -> Callable[[], int]:
    """Return a function that returns the bytes that this process takes now.

    `on_device` returns the bytes that it takes on a device with memory of its own.
    """
    if platform == "darwin":
        usage, pid = proc_pid_rusage(), process.pid
        return lambda: phys_footprint(usage(pid))
    if on_device is not None:
        return lambda: max(int(process.memory_info().rss), on_device())
    return lambda: int(process.memory_info().rss)


def on_device_of(device: Mapping[str, Any]) -> Callable[[], int] | None:
    """Return the function that counts mlx's bytes on a device; None if the system counts them."""
    if not has_own_memory(device):
        return None
    return lambda: mx.get_active_memory() + mx.get_cache_memory()


def phys_footprint(info: bytes) -> int:
    """Return the footprint in bytes out of a `rusage_info_v2`."""
    return int(_INFO.unpack(info)[_PHYS_FOOTPRINT])


def proc_pid_rusage() -> Usage:
    """Return the system call. Written from Apple's headers; not tested on a Mac."""
    call = ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True).proc_pid_rusage

    def usage(pid: int) -> bytes:
        info = ctypes.create_string_buffer(_INFO.size)
        if call(pid, RUSAGE_INFO_V2, info):
            raise OSError(ctypes.get_errno(), "proc_pid_rusage")
        return info.raw

    return usage
