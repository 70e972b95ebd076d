"""The child's end of the pipe.

EOF is the law: when the front is gone, however it went, the child leaves at once. So a thread of
its own reads, from before the first heavy import to the end, and answers pings while MLX works.
Writing is a blocking send under a lock: the front drains its end faster than any model speaks.
[child]
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

from mlx_worker.errors import ProtocolViolation
from mlx_worker.wire.framing import encode, frames_to_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_worker.wire.messages import Message, ToChild

_CHUNK = 1 << 18

EXIT_FRONT_GONE = 0
EXIT_GARBAGE = 65


class Pipe:
    """One end of a socketpair. `on_message` is called on the reader's thread."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._lock = threading.Lock()

    def listen(self, on_message: Callable[[ToChild], None]) -> None:
        """Begin to read. From here on the process ends when the front does."""
        threading.Thread(target=self._read, args=(on_message,), name="pipe", daemon=True).start()

    def send(self, messages: Iterable[Message]) -> None:
        """Say these in one write. With the front gone, so is the process."""
        data = b"".join(encode(message) for message in messages)
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            os._exit(EXIT_FRONT_GONE)

    def _read(self, on_message: Callable[[ToChild], None]) -> None:
        frames = frames_to_child()
        try:
            while data := self._socket.recv(_CHUNK):
                for message in frames.feed(data):
                    on_message(message)
        except ProtocolViolation:
            # The front speaks another protocol: nothing that could be said would be understood.
            os._exit(EXIT_GARBAGE)
        except OSError:
            pass
        os._exit(EXIT_FRONT_GONE)
