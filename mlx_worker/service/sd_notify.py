"""Notify a service manager: ready, reloading, stopping, and still alive.

The protocol is that of sd_notify(3): one datagram of `NAME=value` lines to the socket that
`$NOTIFY_SOCKET` names. The watchdog message is sent from the event loop, at half the interval that
`$WATCHDOG_USEC` allows: a front with a stuck loop is killed and restarted. A process that no such
manager started has neither variable, and sends nothing. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import MutableMapping

log = logging.getLogger(__name__)

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Notifier:
    """Sends the messages of one service to its manager, within a `with` block.

    The variables are taken out of `environ`: they are for this process, and not for its children.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = _address(environ.pop(SOCKET, ""))
        self._watchdog_interval = _watchdog_interval(environ)
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of_this_process(cls) -> Self:
        """Return the notifier for the environment of this process."""
        return cls(os.environ)

    def __enter__(self) -> Self:
        """Begin the signs of life, where they are asked for."""
        if self._watchdog_interval is not None:
            self._send_watchdog(asyncio.get_running_loop(), self._watchdog_interval)
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        if self._timer is not None:
            self._timer.cancel()

    def ready(self) -> None:
        """Report that the node listens, or that a reload is complete."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the node reads its configuration again; `ready` has to follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the node drains and will end."""
        self._send("STOPPING=1")

    def _send_watchdog(self, loop: asyncio.AbstractEventLoop, every: float) -> None:
        self._send("WATCHDOG=1")
        self._timer = loop.call_later(every, self._send_watchdog, loop, every)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)  # a manager that does not read must not block the node
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                log.warning("the service manager could not be notified of %s: %s", lines[0], error)


def _address(named: str) -> str | None:
    """Return the socket's address: a path, or an abstract name, whose @ stands for a zero byte."""
    if named.startswith("@"):
        return "\0" + named[1:]
    return named if named.startswith("/") else None


def _watchdog_interval(environ: MutableMapping[str, str]) -> float | None:
    """Return the seconds between two watchdog messages; None if this process has to send none."""
    usec, pid = environ.pop(WATCHDOG, ""), environ.pop(WATCHDOG_PID, "")
    if pid and pid != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        if int(usec) > 0:
            return int(usec) / 2_000_000
    return None
