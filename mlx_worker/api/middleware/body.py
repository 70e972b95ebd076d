"""Read a request's body up to a size limit, and within a time limit.

[front]
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from mlx_worker.api.middleware.decompression import coding_of, decompressed
from mlx_worker.errors import BodyTooLarge, BodyTooSlow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_worker.supervisor.process.pause import PauseDetector

MIN_BYTES_PER_SECOND = 16 * 1024
"""The rate at which a body has to arrive once its pauses have used up `max_pause`."""

BYTES_PER_TOKEN: Final = 16
"""Of a body, for each token of the largest context: JSON with its escapes and its field names.

Text takes 3 to 5, text with every character escaped (`\\u4e2d`) up to 12.
"""

MIN_DEFAULT_LIMIT: Final = 4 * 1024 * 1024
MAX_DEFAULT_LIMIT: Final = 32 * 1024 * 1024
"""Bounds of the size limit where `max_body_bytes` is not set."""

CHUNKS_PER_STEP: Final = 256
"""Chunks that are read before other work may run.

A chunk that has arrived is read without a wait, and a body in chunks of one byte has hundreds of
thousands.
"""

UNKNOWN_CONTEXT_BYTES: Final = 16 * 1024 * 1024
"""Bytes for a model whose context length is not stated, or not known yet."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large a body may be, in bytes, and how many seconds it may pause in all.

    Where `max_bytes` is None, the largest context of the models decides: `context_lengths` returns
    all of them in tokens. `pause` returns the detector of pauses of this process, which count for
    no client.
    """

    max_bytes: int | None
    max_pause: float
    context_lengths: Callable[[], Iterable[int | None]]
    pause: Callable[[], PauseDetector]

    @property
    def size_limit(self) -> int:
        """Return the largest body in bytes now."""
        return self.max_bytes or default_limit(self.context_lengths())


BODY_LIMITS: web.AppKey[BodyLimits] = web.AppKey("body_limits", BodyLimits)


def default_limit(context_lengths: Iterable[int | None]) -> int:
    """Return the largest body in bytes for models with contexts of these lengths in tokens.

    None: the length is not stated, or not known yet.
    """
    sizes = [
        UNKNOWN_CONTEXT_BYTES if length is None else length * BYTES_PER_TOKEN
        for length in context_lengths
    ]
    return min(max(MIN_DEFAULT_LIMIT, max(sizes, default=UNKNOWN_CONTEXT_BYTES)), MAX_DEFAULT_LIMIT)


async def read_body(request: web.Request) -> bytes:
    """Return the whole body, decompressed.

    Raises BodyTooLarge, BodyTooSlow where the body arrives too slowly, UnsupportedEncoding.
    """
    limits = request.app[BODY_LIMITS]
    coding = coding_of(request)
    max_bytes = limits.size_limit
    body = await _receive(request, max_bytes, limits)
    if coding is None:
        return body
    return await asyncio.to_thread(decompressed, body, coding, max_bytes)


async def _receive(request: web.Request, max_bytes: int, limits: BodyLimits) -> bytes:
    if request.content.is_eof():  # the body came with its head, as most do: no wait
        body = request.content.read_nowait()
        _check_size(len(body), max_bytes)
        return body
    received = bytearray()
    try:
        async with limits.pause().timeout(limits.max_pause) as deadline:
            assert deadline is not None, "there is a limit"
            for number in itertools.count(1):
                chunk = await request.content.readany()
                if not chunk:
                    break
                if number % CHUNKS_PER_STEP == 0:
                    await asyncio.sleep(0)
                received += chunk
                _check_size(len(received), max_bytes)
                # Each byte extends the deadline, so that `max_pause` only counts pauses.
                deadline.extend(len(chunk) / MIN_BYTES_PER_SECOND)
    except TimeoutError as error:
        raise BodyTooSlow(
            f"the body arrived too slowly: after {len(received)} bytes it had paused for more than"
            f" {limits.max_pause:g} s in all (body_timeout), not counting"
            f" {MIN_BYTES_PER_SECOND} bytes a second"
        ) from error
    return bytes(received)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise BodyTooLarge(f"the body is over max_body_bytes, {max_bytes} bytes")
