"""A request's body, read to its end but not for ever. [front]"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from mlx_worker.errors import BodyTooLarge, BodyTooSlow

SLOWEST = 16 * 1024
"""Bytes a second that a body has to come at, once `BodyLimits.patience` is used up."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large a body may be, in bytes, and how many seconds it may pause in all."""

    most: int
    patience: float


BODY: web.AppKey[BodyLimits] = web.AppKey("body", BodyLimits)


async def read_body(request: web.Request) -> bytes:
    """All of it. Raises BodyTooLarge, or BodyTooSlow where it came at less than a crawl."""
    limits = request.app[BODY]
    if request.content.is_eof():  # it came with its head, as most do: there is nothing to wait for
        body = request.content.read_nowait()
        _check(len(body), limits)
        return body
    read = bytearray()
    try:
        async with asyncio.timeout(limits.patience) as deadline:
            while chunk := await request.content.readany():
                read += chunk
                _check(len(read), limits)
                # Every byte buys its time, so that patience is for pauses alone.
                deadline.reschedule((deadline.when() or 0) + len(chunk) / SLOWEST)
    except TimeoutError as error:
        raise BodyTooSlow(
            f"{len(read)} bytes of the body came, then too little: it may pause for"
            f" {limits.patience:g} s in all (body_timeout), and comes at {SLOWEST} bytes a second"
        ) from error
    return bytes(read)


def _check(size: int, limits: BodyLimits) -> None:
    if size > limits.most:
        raise BodyTooLarge(f"the body is over max_body_bytes, {limits.most} bytes")
