"""Lower the priority of processes whose work can wait: streams and health cannot.

A nice value alone is not enough on Linux. Where the kernel groups tasks by session (autogroup, the
default of most distributions), a process that leads a session of its own gets the share of a whole
group, and its nice value counts only inside that group. The group has a nice value of its own.
[both]
"""

from __future__ import annotations

import os
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
