"""Decompress request bodies after the API key was checked, in a thread, up to the size limit.

aiohttp would decompress a body while its bytes arrive, on the event loop, before the API key is
checked and even after the request was refused. A few megabytes could block the node for minutes.

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
"""The value of `Accept-Encoding` in the response to a body with another encoding."""

MAX_MEMBERS: Final = 100
"""Members of a gzip body. Each takes a new decompressor, and may be only 20 bytes long."""

_PIECE: Final = 64 * 1024
"""Bytes decompressed at a time: what a member leaves over is copied, so it must be short."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_DEFLATE_METHOD: Final = 8


def coding_of(request: web.Request) -> str | None:
    """Return the body's compression; None without one. Raises UnsupportedEncoding."""
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


def decompressed(body: bytes, coding: str, max_bytes: int) -> bytes:
    """Return the decompressed body. To be called in a thread.

    Raises BodyTooLarge where the result is over `max_bytes`, InvalidRequest where the body is
    damaged, cut off or followed by other bytes.
    """
    try:
        return b"".join(_pieces(body, coding, max_bytes))
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {coding} data: {error}") from error


def _pieces(body: bytes, coding: str, max_bytes: int) -> list[bytes]:
    wbits = _GZIP if coding == "gzip" else _deflate_bits(body)
    decompressor = zlib.decompressobj(wbits)
    pieces: list[bytes] = []
    room, members = max_bytes, 1
    for at in range(0, len(body), _PIECE):
        data = body[at : at + _PIECE]
        while data:
            if decompressor.eof:
                if coding != "gzip":
                    raise InvalidRequest("the body goes on after the end of its deflate data")
                if not data.strip(b"\0"):  # some programs pad their last block
                    break
                members += 1
                if members > MAX_MEMBERS:
                    raise InvalidRequest(f"the body has more than {MAX_MEMBERS} gzip members")
                decompressor = zlib.decompressobj(wbits)
            pieces.append(decompressor.decompress(data, room + 1))
            room -= len(pieces[-1])
            if room < 0:
                raise BodyTooLarge(
                    f"the body is over max_body_bytes, {max_bytes} bytes, when it is decompressed"
                )
            data = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
    if not decompressor.eof:
        raise InvalidRequest(f"the body ends before its {coding} data does")
    return pieces


def _deflate_bits(body: bytes) -> int:
    """Return the window bits: deflate should have zlib's header, which some clients leave out."""
    wrapped = bool(body) and body[0] & 0xF == _DEFLATE_METHOD
    return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
