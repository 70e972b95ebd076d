"""The child's end of the pipe.

The child ends at EOF: when the front is gone, for any reason, the child ends at once. So a thread
reads the pipe, from before the first heavy import to the end, and answers pings while MLX works.
Writing is a blocking send under a lock: the front reads faster than any model generates.
[child]
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

from mlx_worker.errors import ProtocolViolation
from mlx_worker.wire.framing import encode, frames_to_child
from mlx_worker.wire.rank_place import UNTIL_SPOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_worker.wire.base import WireMessage
    from mlx_worker.wire.messages import ToChild

_CHUNK = 1 << 18

EXIT_FRONT_GONE = 0
EXIT_GARBAGE = 65


class Pipe:
    """Read and write one end of a socketpair.

    The process ends when the front is silent for `silence` seconds, from its first message on.
    Without `silence` it ends at EOF only.
    """

    def __init__(self, fd: int, silence: float | None = None) -> None:
        self._socket = socket.socket(fileno=fd)
        self._lock = threading.Lock()
        self._silence = silence

    def listen(self, on_message: Callable[[ToChild], None]) -> None:
        """Start the thread that calls `on_message`. The process now ends with the front."""
        threading.Thread(target=self._read, args=(on_message,), name="pipe", daemon=True).start()

    def send(self, messages: Iterable[WireMessage]) -> None:
        """Send messages in one write; end the process if the front is gone."""
        data = b"".join(encode(message) for message in messages)
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            os._exit(EXIT_FRONT_GONE)

    def _read(self, on_message: Callable[[ToChild], None]) -> None:
        frames = frames_to_child()
        if self._silence is not None:
            self._expect_data_within(self._silence * UNTIL_SPOKEN)
        try:
            while data := self._socket.recv(_CHUNK):
                if self._silence is not None:
                    self._expect_data_within(self._silence)
                for message in frames.feed(data):
                    on_message(message)
        except ProtocolViolation:
            # The front uses another protocol, and would not understand an error either.
            os._exit(EXIT_GARBAGE)
        except OSError:
            pass
        os._exit(EXIT_FRONT_GONE)

    def _expect_data_within(self, seconds: float) -> None:
        """Have a read that takes longer fail; writes are not bounded."""
        whole, rest = divmod(seconds, 1)
        timeval = struct.pack("ll", int(whole), int(rest * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
