"""Compressed request bodies: inflated behind the key, off the event loop, up to the body limit.

aiohttp would inflate a body while its bytes arrive, on the event loop, before the API key is looked
at and even after the request was refused: a few megabytes could hold the node up for minutes.
[front]
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs

from mlx_worker.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding

if TYPE_CHECKING:
    from aiohttp import web

SUPPORTED: Final = "gzip, deflate"
"""What an `Accept-Encoding` header says to a client that sent something else."""

MAX_MEMBERS: Final = 100
"""Parts of a gzip body. Each takes a new decompressor, and 20 bytes are enough for one."""

_PIECE: Final = 64 * 1024
"""Bytes inflated at a time: what a part leaves over is copied, so it must be short."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_DEFLATE_METHOD: Final = 8


def coding_of(request: web.Request) -> str | None:
    """Return how the body is compressed; None where it is not. Raises UnsupportedEncoding."""
    named = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ()))
    coding = named.strip().lower()
    match coding:
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return "gzip"
        case "deflate":
            return coding
        case _:
            raise UnsupportedEncoding(
                f"Content-Encoding: this node reads {SUPPORTED} and bodies that are not compressed"
            )


def inflated(body: bytes, coding: str, most: int) -> bytes:
    """Return the body without its compression. To be called in a thread.

    Raises BodyTooLarge where more than `most` bytes come of it, InvalidRequest where the body is
    damaged, cut off or followed by something else.
    """
    try:
        return b"".join(_pieces(body, coding, most))
    except zlib.error as error:
        raise InvalidRequest(f"the body is no {coding} data: {error}") from error


def _pieces(body: bytes, coding: str, most: int) -> list[bytes]:
    wbits = _GZIP if coding == "gzip" else _deflate_bits(body)
    machine = zlib.decompressobj(wbits)
    pieces: list[bytes] = []
    room, members = most, 1
    for at in range(0, len(body), _PIECE):
        data = body[at : at + _PIECE]
        while data:
            if machine.eof:
                if coding != "gzip":
                    raise InvalidRequest("the body goes on after the end of its deflate data")
                if not data.strip(b"\0"):  # some programs fill up their last block
                    break
                members += 1
                if members > MAX_MEMBERS:
                    raise InvalidRequest(f"the body has more than {MAX_MEMBERS} gzip members")
                machine = zlib.decompressobj(wbits)
            pieces.append(machine.decompress(data, room + 1))
            room -= len(pieces[-1])
            if room < 0:
                raise BodyTooLarge(
                    f"the body is over max_body_bytes, {most} bytes, when it is decompressed"
                )
            data = machine.unused_data if machine.eof else machine.unconsumed_tail
    if not machine.eof:
        raise InvalidRequest(f"the body ends before its {coding} data does")
    return pieces


def _deflate_bits(body: bytes) -> int:
    """Deflate is meant to come in zlib's wrapping; some clients send it bare."""
    wrapped = bool(body) and body[0] & 0xF == _DEFLATE_METHOD
    return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
