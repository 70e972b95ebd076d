"""Joining the ring of `mlx.distributed`, in bounded time.

mlx reads the addresses from a file and the rank from the environment. Its `init` waits for the
neighbours with the interpreter held, so that no other thread of this process runs: a rank whose
neighbour never comes would outlive its front. So a timer of the operating system, whose signal
needs no interpreter, ends the process. [child]
"""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Iterator

JOIN_SECONDS: Final = 40.0
"""Seconds that joining may take: mlx retries a connection for 15 s, once to each side."""


class ReservedPort:
    """A port of an address that no other process gets, until the end of the reservation.

    mlx binds its own socket with SO_REUSEPORT. A second socket on the port, which does not listen,
    keeps the port from being given to others meanwhile.
    """

    def __init__(self, host: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind((host, 0))
        self.address = "{}:{}".format(*self._socket.getsockname())
        """As in the file that mlx reads."""

    def release(self) -> None:
        """Give the port back."""
        self._socket.close()


def join_ring(
    rank: int, addresses: list[str], seconds: float = JOIN_SECONDS
) -> mx.distributed.Group:
    """Return the group of the processes at these addresses, in the order of their ranks.

    SIGALRM ends the process if the others do not come within `seconds`. To be called by the main
    thread, once in a process. Raises RuntimeError if a connection is refused.
    """
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".json"))
        json.dump([[address] for address in addresses], file)
        file.flush()
        os.environ["MLX_HOSTFILE"], os.environ["MLX_RANK"] = file.name, str(rank)
        stack.enter_context(ending_after(seconds))
        return mx.distributed.init(strict=True, backend="ring")


@contextmanager
def ending_after(seconds: float) -> Iterator[None]:
    """End the process if the block takes longer."""
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
