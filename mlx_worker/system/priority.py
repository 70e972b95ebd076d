"""Lower the priority of processes whose work can wait, and keep threads from preempting others.

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


class NativeThreads:
    """The threads of this process that Python has not started so far, of which mlx has some.

    mlx computes on a CPU in a thread of its own. The main thread gives that thread one operation
    after the other, and wakes the thread for each. Where both share a processor, Linux switches to
    the computing thread for each operation of a microsecond and back: 60 to 200 switches for a
    token of a small model, and twice the CPU time. A thread of the kernel's class for batches has
    the same share of a processor, but preempts no other thread when it is woken: it runs as soon as
    the main thread waits, all operations in a row.
    """

    def __init__(self) -> None:
        started_by_python = {thread.native_id for thread in threading.enumerate()}
        tasks = TASKS.iterdir() if TASKS.is_dir() else ()  # on Linux, unless it is hidden
        self._ids = {int(task.name) for task in tasks} - started_by_python
        self._preempt = True

    def preempt(self, *, allowed: bool) -> None:
        """Let these threads preempt others when they are woken, as at first; or do not."""
        if sys.platform != "linux" or allowed == self._preempt:
            return
        self._preempt = allowed
        for id_ in self._ids:
            with contextlib.suppress(OSError):  # the thread has ended meanwhile
                policy = os.SCHED_OTHER if allowed else os.SCHED_BATCH
                os.sched_setscheduler(id_, policy, os.sched_param(0))
