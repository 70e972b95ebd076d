"""Record the bytes of one response, and hand them to every client that reads the response.

The recorded chunks are the bytes objects that the dialect has formatted: nothing is copied. A
client that lags is behind in the list of chunks, so that the list is the buffer of all clients.
Beyond `max_bytes` only what an attached client has not got yet is kept, and no client can join.

[front]
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import web


class Reader(Protocol):
    """A client that reads a recording, or code that does. `position` counts chunks from the first.

    `on_change` is called for every chunk and at the end. It must not block, and not raise.
    """

    position: int

    def on_change(self) -> None:
        """Handle that there is more to read, or the end."""


class Recording:
    """One response: its head, its chunks so far, and its readers.

    `status` and `headers` are valid once the response has begun. `is_stream`: the response has
    begun before its end. `is_complete`: all bytes are kept. `is_broken`: a stream ended with an
    error. `error` is what was raised in place of a response, or of its rest.
    """

    def __init__(self, max_bytes: int, on_overflow: Callable[[], None]) -> None:
        self.status: int = HTTPStatus.OK
        self.headers: Mapping[str, str] = {}
        self.is_stream = False
        self.has_ended = False
        self.is_complete = True
        self.is_broken = False
        self.error: BaseException | None = None
        self.size = 0
        self._max_bytes = max_bytes
        self._on_overflow = on_overflow
        self._chunks: list[bytes] = []
        self._dropped = 0
        self._readers: set[Reader] = set()
        self._begun = asyncio.Event()

    @property
    def has_begun(self) -> bool:
        """True once the head of the response, or its error, is known."""
        return self._begun.is_set()

    # --- the side that responds ---

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Record the head of a stream."""
        self.is_stream = True
        self._record_head(status, headers)

    def write(self, data: bytes) -> None:
        """Record the next bytes of a stream, and hand them to the readers at once."""
        self._append(data)
        for reader in tuple(self._readers):
            reader.on_change()
        self._trim()

    def finish(self, data: bytes = b"") -> None:
        """Record the last bytes of a stream; readers send them together with the end."""
        if self.has_ended:
            return
        self._append(data)
        self._end()

    def finish_whole(self, response: web.Response) -> None:
        """Record a response that is not a stream."""
        body = response.body
        assert isinstance(body, bytes), "a response of a generation is bytes"
        self._record_head(response.status, response.headers.copy())
        self._append(body)
        self._end()

    def fail(self, error: BaseException) -> None:
        """Record that there is no response, or no rest of one."""
        self.error = error
        self._begun.set()
        self._end()

    def _record_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, headers
        self._begun.set()

    def _append(self, data: bytes) -> None:
        if not data:
            return
        self._chunks.append(data)
        self.size += len(data)
        if self.is_complete and self.size > self._max_bytes:
            self.is_complete = False
            self._on_overflow()

    def _end(self) -> None:
        self.has_ended = True
        for reader in tuple(self._readers):
            reader.on_change()

    def _trim(self) -> None:
        """Drop what all readers have, once the recording is too large to be kept whole."""
        if self.is_complete:
            return
        read = min((reader.position for reader in self._readers), default=self.length)
        del self._chunks[: read - self._dropped]
        self._dropped = read

    # --- the side that reads ---

    async def begun(self) -> None:
        """Wait for the head of the response. Raises the error that came in its place."""
        await self._begun.wait()
        if self.error is not None and not self.is_stream:
            raise self.error

    @property
    def length(self) -> int:
        """Return the number of chunks so far."""
        return self._dropped + len(self._chunks)

    @property
    def last_chunk(self) -> bytes:
        """Return the bytes that came with the end."""
        return self._chunks[-1]

    def attach(self, reader: Reader) -> None:
        """Tell a reader of every change from now on."""
        self._readers.add(reader)

    def detach(self, reader: Reader) -> None:
        """Tell a reader nothing more."""
        self._readers.discard(reader)

    def read(self, position: int, max_bytes: int) -> tuple[bytes, int]:
        """Return the next bytes from a position, and the position behind them.

        At least one chunk, if there is one; of several, as many as have `max_bytes` together.
        """
        first = position - self._dropped
        assert first >= 0, "what a reader has not got is kept"
        if first + 1 == len(self._chunks):  # the reader does not lag: no copy
            return self._chunks[first], position + 1
        taken: list[bytes] = []
        size = 0
        for chunk in self._chunks[first:]:
            if taken and size + len(chunk) > max_bytes:
                break
            taken.append(chunk)
            size += len(chunk)
        return b"".join(taken), position + len(taken)
