"""Lower the priority of processes whose work can wait, and of threads that compute.

Streams and health cannot wait. A nice value alone is not enough on Linux. Where the kernel groups
tasks by session (autogroup, the default of most distributions), a process that leads a session of
its own gets the share of a whole group, and its nice value counts only inside that group. The group
has a nice value of its own.
[both]
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Final

NICENESS: Final = 5
"""Nice value: a quarter of a processor if a process with normal priority wants all of it.

Not a tenth (10): on a busy machine a body that takes 1.1 s then took 11 to 15 s, and health was
answered no sooner.
"""

TRIES: Final = 3
"""The kernel accepts one change of a group in a tenth of a second from unprivileged processes."""

EACH: Final = 0.1
"""Seconds between two tries."""

TASKS: Final = Path("/proc/self/task")
"""A folder for each thread of this process."""

AUTOGROUP: Final = Path("/proc/self/autogroup")


def lower_priority() -> None:
    """Lower the priority of this process, and of its session where the process leads one."""
    os.nice(NICENESS)
    if os.getsid(0) != os.getpid():
        return  # the session is that of other programs
    for _ in range(TRIES):
        try:
            AUTOGROUP.write_text(str(NICENESS), encoding="ascii")
        except BlockingIOError:
            time.sleep(EACH)
        except OSError:
            return  # this system has no such groups
        else:
            return


def lower_native_threads() -> None:
    """Lower the priority of the threads of this process that Python did not start, on Linux.

    mlx computes on a CPU in a thread of its own. The main thread gives that thread one operation
    after the other, and wakes the thread for each. If both have one processor and one priority,
    the kernel switches to the computing thread for each operation of a microsecond and back: some
    90 switches for a token of a small model, and twice the CPU time. A thread with a lower priority
    runs as soon as the main thread waits, all operations in a row.
    """
    if sys.platform != "linux":
        return  # elsewhere a process has one priority
    started_by_python = {thread.native_id for thread in threading.enumerate()}
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
    for task in TASKS.iterdir():
        if int(task.name) not in started_by_python:
            with contextlib.suppress(OSError):  # the thread has ended meanwhile
                os.setpriority(os.PRIO_PROCESS, int(task.name), niceness)
