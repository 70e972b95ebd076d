"""The keeper of a rank: `mlx-worker rank`, which a front starts on each host of a model.

The front talks to the keeper over its standard input and output, through ssh or directly. The
keeper starts the rank's process and passes bytes on in both directions. The rank lives no longer
than the front's end: at EOF, or when the front is silent for too long, the keeper ends the process
with SIGKILL, because a process that waits for other ranks in native code answers nothing else. The
keeper reads one message, `KeepRank`, and knows nothing of those that follow; it imports no mlx.
[front]
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.errors import ProtocolViolation
from mlx_worker.supervisor.process.launch.process import CHILD_COMMAND, rank_environment
from mlx_worker.system.process_titles import set_title
from mlx_worker.wire.framing import Frames, encode
from mlx_worker.wire.messages import PROTOCOL, Kept
from mlx_worker.wire.rank_place import SILENCE, UNTIL_SPOKEN, KeepRank

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK: Final = 1 << 16
STDIN: Final = 0
STDOUT: Final = 1

PR_SET_PDEATHSIG: Final = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""

SIGNALLED: Final = 128
"""Added to the number of the signal that ended the rank, in the keeper's exit code."""

EXIT_UNUSABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h: the host cannot run a rank."""

EXIT_WAIT: Final = 1.0
"""Seconds in which a rank that has closed its pipe may end by itself."""


def keep_rank(command: Sequence[str] = CHILD_COMMAND, silence: float = SILENCE) -> int:
    """Run a rank until it or the front ends; return its exit code, 0 if the front ended first."""
    set_title("keeper")
    order = _order_within(silence)
    if order is None:
        return 0
    if not order.address:
        return _keep(command, silence, None, None)
    try:
        env = rank_environment(order.env)
        doorbell = socket.create_server((order.address, 0))
    except OSError as error:
        _write(encode(Kept(PROTOCOL, problem=error.strerror or str(error))))
        return EXIT_UNUSABLE
    with doorbell:
        _write(encode(Kept(PROTOCOL, doorbell.getsockname()[1])))
        return _keep(command, silence, env, doorbell)


def _order_within(seconds: float) -> KeepRank | None:
    """Return the front's first message; None if the front ends or says something else."""
    frames = Frames(msgspec.msgpack.Decoder(KeepRank))
    end = time.monotonic() + seconds
    while select.select([STDIN], [], [], max(0.0, end - time.monotonic()))[0]:
        if not (data := os.read(STDIN, CHUNK)):
            return None
        try:
            if orders := list(frames.feed(data)):
                return orders[0]
        except ProtocolViolation:
            return None
    return None


def _keep(
    command: Sequence[str],
    silence: float,
    env: dict[str, str] | None,
    doorbell: socket.socket | None,
) -> int:
    """Run a rank, with the keeper's own environment if `env` is None; return its exit code."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603  (the product's own command)
            [*command, "--fd", str(theirs.fileno()), "--silence", str(silence)],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=env,
            # Safe: a keeper has one thread.
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )
    code: int | None = None
    with ours:
        try:
            if _relay(ours, silence, doorbell):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(EXIT_WAIT)
            code = process.poll()
        finally:
            process.kill()
            process.wait()
    if code is None:
        return 0
    return code if code >= 0 else SIGNALLED - code


def _relay(rank: socket.socket, silence: float, doorbell: socket.socket | None) -> bool:
    """Pass bytes on until one side ends; return True if the rank's side did.

    `doorbell` is closed once the front speaks: the front has rung by then.
    """
    timeout = silence * UNTIL_SPOKEN
    none: list[int] = []
    while True:
        readable, _, _ = select.select([STDIN, rank.fileno()], none, none, timeout)
        if STDIN in readable:
            if not (data := os.read(STDIN, CHUNK)):
                return False
            timeout = silence
            if doorbell is not None:
                doorbell.close()
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
