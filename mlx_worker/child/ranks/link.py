"""The connection between two ranks, whose other end may go without a word.

A host that loses its power, or a cable that is cut, sends nothing. The system asks the other end of
an idle connection whether it is there, and gives up on bytes that are not confirmed. A rank learns
of that where it reads or writes the connection; while it waits in a collective of mlx, which never
gives up, a thread waits for the end of the connection in its place. [child]
"""

from __future__ import annotations

import select
import socket
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

IDLE, INTERVAL, COUNT = 4, 2, 3
"""Seconds without a byte after which the system asks, between two such questions, and how many are
not answered: 10 s in all."""

UNCONFIRMED: Final = 10
"""Seconds after which bytes that the other end has not confirmed end the connection."""

_OPTIONS: Final[Mapping[str, int]] = {
    "TCP_KEEPIDLE": IDLE,  # Linux
    "TCP_KEEPALIVE": IDLE,  # macOS
    "TCP_KEEPINTVL": INTERVAL,
    "TCP_KEEPCNT": COUNT,
    "TCP_USER_TIMEOUT": UNCONFIRMED * 1000,  # Linux
}
"""Options by their names in `socket`, which has those of the system."""

_TCP_RXT_CONNDROPTIME: Final = 0x80
"""The same as TCP_USER_TIMEOUT on macOS, in seconds; `socket` has no name for the option."""


def prepare_link(sock: socket.socket) -> None:
    """Have the system end a connection whose other end is gone, and send small messages at once."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RXT_CONNDROPTIME, UNCONFIRMED)


def watch_link(sock: socket.socket, on_lost: Callable[[], None]) -> None:
    """Call `on_lost` on a thread once the connection has failed, whatever other threads do."""
    poll = select.poll()
    poll.register(sock, 0)  # errors only

    def wait() -> None:
        poll.poll()
        on_lost()

    threading.Thread(target=wait, name="link", daemon=True).start()
