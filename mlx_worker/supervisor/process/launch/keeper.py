"""The keeper of a rank: `mlx-worker rank`, which a front starts on each host of a model.

The front talks to the keeper over its standard input and output, through ssh or directly. The
keeper starts the rank's process and passes bytes on in both directions. The rank lives no longer
than the front's end: at EOF, or when the front is silent for too long, the keeper ends the process
with SIGKILL, because a process that waits for other ranks in native code answers nothing else. The
keeper knows nothing of the messages and imports no mlx. [front]
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mlx_worker.supervisor.process.launch.process import CHILD_COMMAND
from mlx_worker.system.process_titles import set_title

if TYPE_CHECKING:
    from collections.abc import Sequence

SILENCE: Final = 20.0
"""Seconds without a byte from the front, which pings every second, after which the front is gone.
They count from the first byte on: until its first message a rank imports its modules."""

CHUNK: Final = 1 << 16
STDIN: Final = 0
STDOUT: Final = 1

PR_SET_PDEATHSIG: Final = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""

SIGNALLED: Final = 128
"""Added to the number of the signal that ended the rank, in the keeper's exit code."""

EXIT_WAIT: Final = 1.0
"""Seconds in which a rank that has closed its pipe may end by itself."""


def keep_rank(command: Sequence[str] = CHILD_COMMAND, silence: float = SILENCE) -> int:
    """Run a rank until it or the front ends; return its exit code, 0 if the front ended first."""
    set_title("keeper")
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603  (the product's own command)
            [*command, "--fd", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Safe: a keeper has one thread.
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )
    code: int | None = None
    with ours:
        try:
            if _relay(ours, silence):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(EXIT_WAIT)
            code = process.poll()
        finally:
            process.kill()
            process.wait()
    if code is None:
        return 0
    return code if code >= 0 else SIGNALLED - code


def _relay(rank: socket.socket, silence: float) -> bool:
    """Pass bytes on until one side ends; return True if the rank's side did."""
    timeout: float | None = None
    none: list[int] = []
    while True:
        readable, _, _ = select.select([STDIN, rank.fileno()], none, none, timeout)
        if STDIN in readable:
            if not (data := os.read(STDIN, CHUNK)):
                return False
            timeout = silence
            with suppress(OSError):  # the rank has ended: its side is read to the end
                rank.sendall(data)
        elif not readable:
            return False
        if rank.fileno() in readable:
            if not (data := _received(rank)):
                return True
            _write(data)


def _received(rank: socket.socket) -> bytes:
    try:
        return rank.recv(CHUNK)
    except ConnectionError:
        return b""


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(STDOUT, view) :]


def _die_with_parent() -> None:
    """Have the system end the rank with the keeper, even a rank that is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
