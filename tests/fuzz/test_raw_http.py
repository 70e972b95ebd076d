"""Bytes that are not HTTP, on the node's own socket: refused or left, and no harm done."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest

from tests.fuzz.malformed import Malformed, malformed
from tests.fuzz.nodes import COUNT, GROWTH, IN_FULL, Standing, fuzzed_node

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fuzz


REQUESTS: Final = max(1000, COUNT // 5) if IN_FULL else 154
SEED: Final = "raw HTTP"
AT_ONCE: Final = 16
PATIENCE: Final = 20.0
"""Seconds in which the node has to end a connection whose client says no more."""

IMPATIENT: Final = "idle_timeout = 0.5\nbody_timeout = 0.5\nsend_timeout = 5"
"""What is never completed ends soon; what is complete is not touched by it."""

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


async def test_no_bytes_on_the_socket_do_the_node_any_harm(tmp_path: Path) -> None:
    tries = [malformed(Random(f"{SEED} {i}"), i) for i in range(REQUESTS)]
    with fuzzed_node(tmp_path, server=IMPATIENT) as node:
        port = urlsplit(node.url).port or 0
        await all_of(port, tries[: 2 * AT_ONCE])  # buffers and caches find their size
        before = Standing.of(node)
        began = time.monotonic()
        answers = await all_of(port, tries)
        took = time.monotonic() - began
        after = Standing.of(node)
        assert node.ask("/health").json["status"] == "healthy"
        assert node.ask("/v1/completions", {"prompt": "hello"}).status == 200
    statuses = Counter(status for answer in answers for status in answer)
    print(  # noqa: T201  (what was seen is the point)
        f"\n{len(answers):,} malformed requests in {took:.1f} s: {dict(sorted(statuses.items()))};"
        f" the front takes {after.grown(before) / 1e6:+.1f} MB"
    )
    assert after.grown(before) < GROWTH
    ours = [
        (item, got) for item, got in zip(tries, answers, strict=True) if any(s >= 500 for s in got)
    ]
    assert ours == []
    assert statuses[400] > REQUESTS / 5, "most of it was seen, and refused"


async def all_of(port: int, tries: list[Malformed]) -> list[list[int]]:
    """Every one on a connection of its own, a few at a time; the statuses that came back."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(it: Malformed) -> list[int]:
        async with places:
            try:
                async with asyncio.timeout(PATIENCE):
                    return await tried(port, it)
            except TimeoutError:
                raise AssertionError(f"the node never ended this: {it}") from None

    return await asyncio.gather(*(one(attempt) for attempt in tries))


async def tried(port: int, it: Malformed) -> list[int]:
    """Send it, then read until the node ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        for piece in it.pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        if it.cut:
            writer.transport.abort()
            return []
        while data := await reader.read(1 << 16):
            got += data
    except ConnectionError:
        pass  # it has had enough of us: as good an end
    finally:
        writer.close()
    return [int(status) for status in STATUS.findall(got)]
