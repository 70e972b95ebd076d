"""A request's body, read to its end but not for ever. [front]"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from mlx_worker.api.context import FRONT
from mlx_worker.api.middleware.decompression import coding_of, inflated
from mlx_worker.errors import BodyTooLarge, BodyTooSlow

if TYPE_CHECKING:
    from collections.abc import Iterable

SLOWEST = 16 * 1024
"""Bytes a second that a body has to come at, once `BodyLimits.patience` is used up."""

BYTES_PER_TOKEN: Final = 16
"""Of a body, for each token of the largest context: JSON with its escapes and its field names.

Text takes 3 to 5, text with every character escaped (`\\u4e2d`) up to 12.
"""

SMALLEST_DEFAULT: Final = 4 * 1024 * 1024
LARGEST_DEFAULT: Final = 32 * 1024 * 1024
"""Limits of a body where `max_body_bytes` is not set."""

CHUNKS_A_STEP: Final = 256
"""Pieces of a body that are taken before other work has its turn.

A piece that has come is had without a wait. A body in chunks of one byte is hundreds of thousands.
"""

UNKNOWN_CONTEXT: Final = 16 * 1024 * 1024
"""Bytes for a model whose context length is not stated, or not known yet."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large a body may be, in bytes, and how many seconds it may pause in all.

    `most` None: what the largest context of the models could hold.
    """

    most: int | None
    patience: float


BODY: web.AppKey[BodyLimits] = web.AppKey("body", BodyLimits)


def default_limit(contexts: Iterable[int | None]) -> int:
    """Return the largest body in bytes for models with contexts of these lengths in tokens.

    None: the length is not stated, or not known yet.
    """
    sizes = [UNKNOWN_CONTEXT if it is None else it * BYTES_PER_TOKEN for it in contexts]
    return min(max(SMALLEST_DEFAULT, max(sizes, default=UNKNOWN_CONTEXT)), LARGEST_DEFAULT)


async def read_body(request: web.Request) -> bytes:
    """All of it, decompressed.

    Raises BodyTooLarge, BodyTooSlow where it came at less than a crawl, UnsupportedEncoding.
    """
    limits = request.app[BODY]
    coding = coding_of(request)
    most = limits.most or _default_of(request)
    body = await _received(request, most, limits.patience)
    if coding is None:
        return body
    return await asyncio.to_thread(inflated, body, coding, most)


def _default_of(request: web.Request) -> int:
    models = request.app[FRONT].node.models.values()
    return default_limit(model.planned.context_length for model in models)


async def _received(request: web.Request, most: int, patience: float) -> bytes:
    if request.content.is_eof():  # it came with its head, as most do: there is nothing to wait for
        body = request.content.read_nowait()
        _check(len(body), most)
        return body
    read = bytearray()
    try:
        async with asyncio.timeout(patience) as deadline:
            for number in itertools.count(1):
                chunk = await request.content.readany()
                if not chunk:
                    break
                if number % CHUNKS_A_STEP == 0:
                    await asyncio.sleep(0)
                read += chunk
                _check(len(read), most)
                # Every byte buys its time, so that patience is for pauses alone.
                deadline.reschedule((deadline.when() or 0) + len(chunk) / SLOWEST)
    except TimeoutError as error:
        raise BodyTooSlow(
            f"{len(read)} bytes of the body came, then too little: it may pause for"
            f" {patience:g} s in all (body_timeout), and comes at {SLOWEST} bytes a second"
        ) from error
    return bytes(read)


def _check(size: int, most: int) -> None:
    if size > most:
        raise BodyTooLarge(f"the body is over max_body_bytes, {most} bytes")
