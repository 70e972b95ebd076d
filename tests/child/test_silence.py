"""A rank whose front is silent: the process ends by itself, whatever becomes of its keeper."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mlx_worker.child.pipe import EXIT_FRONT_GONE
from mlx_worker.wire.framing import encode
from mlx_worker.wire.messages import Ping
from tests.processes import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

RANK = """
import sys, threading
from mlx_worker.child.pipe import Pipe
pipe = Pipe(int(sys.argv[1]), float(sys.argv[2]))
pipe.listen(lambda message: pipe.send([message]))
threading.Event().wait()
"""
SILENCE = 0.2


@contextlib.contextmanager
def rank(silence: float) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    command = [sys.executable, "-c", RANK, str(theirs.fileno()), str(silence)]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        try:
            yield ours, process
        finally:
            process.kill()


@pytest.mark.parametrize("speaks", [False, True], ids=["from the start", "after a message"])
def test_rank_ends_when_its_front_is_silent(*, speaks: bool) -> None:
    with rank(SILENCE if speaks else SILENCE / 10) as (pipe, process):
        if speaks:
            pipe.sendall(encode(Ping(1)))
            assert pipe.recv(1 << 16) == encode(Ping(1))
        began = time.monotonic()
        assert process.wait(DEADLINE) == EXIT_FRONT_GONE
        # Until the first message a rank imports its modules.
        assert speaks or time.monotonic() - began > SILENCE / 10


def test_rank_of_a_front_that_pings_stays() -> None:
    with rank(SILENCE) as (pipe, process):
        for _ in range(10):
            pipe.sendall(encode(Ping(1)))
            assert pipe.recv(1 << 16) == encode(Ping(1))
            time.sleep(SILENCE / 4)
        assert process.poll() is None
