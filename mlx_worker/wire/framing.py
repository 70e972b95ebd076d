"""Messages to bytes and back: four bytes of length, then one MessagePack message.

No sockets here: bytes in, messages out, so that a test can feed one byte at a time. MessagePack
rather than JSON because token ids and text pass through it at every decode step, and the child's
share of that work is taken from its engine. [both]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from mlx_worker.errors import ProtocolViolation
from mlx_worker.wire.messages import FromChild, ToChild

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = 4
MAX_FRAME = 64 * 1024 * 1024
"""Bytes. A prompt body is capped well below this; anything larger is garbage."""

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Return one frame. Raises ValueError for a message that MessagePack or a frame cannot hold."""
    try:
        payload = _encoder.encode(message)
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"a message that cannot be sent: {error}") from error
    if len(payload) > MAX_FRAME:
        raise ValueError(f"a message of {len(payload)} bytes is over the limit of {MAX_FRAME}")
    return len(payload).to_bytes(_HEADER, "big") + payload


def encodable(text: str) -> str:
    """Return a text that can be encoded: halves of surrogate pairs are written out."""
    return text.encode(errors="backslashreplace").decode()


class Frames(Generic[T]):
    """Collect bytes until they make frames. Raises ProtocolViolation on garbage."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """Yield every message completed by these bytes; to be iterated to the end."""
        self._buffer += data
        start = 0
        try:
            while (end := self._frame_end(start)) is not None:
                yield self._decode(start + _HEADER, end)
                start = end
        finally:
            del self._buffer[:start]

    def _frame_end(self, start: int) -> int | None:
        if len(self._buffer) - start < _HEADER:
            return None
        length = int.from_bytes(self._buffer[start : start + _HEADER], "big")
        if not 0 < length <= MAX_FRAME:
            raise ProtocolViolation(f"a frame of {length} bytes; the limit is {MAX_FRAME}")
        end = start + _HEADER + length
        return end if end <= len(self._buffer) else None

    def _decode(self, start: int, end: int) -> T:
        try:
            return self._decoder.decode(memoryview(self._buffer)[start:end])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolViolation(f"a frame that is no message: {error}") from error


def frames_from_child() -> Frames[FromChild]:
    """Return a decoder of frames from a child."""
    return Frames(msgspec.msgpack.Decoder(FromChild))


def frames_to_child() -> Frames[ToChild]:
    """Return a decoder of frames to a child."""
    return Frames(msgspec.msgpack.Decoder(ToChild))
