"""The status table, live, with tokens per second from two successive reports.

[front]
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from mlx_worker.cli.reports.output import print_json_line, print_lines, terminal_width
from mlx_worker.cli.reports.status import Rates, overview
from mlx_worker.errors import NodeUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mlx_worker.cli.client import NodeClient


class Speed:
    """Tokens per second of each model, between two reports."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._at = 0.0

    def rates_since(self, body: Mapping[str, Any], now: float) -> Rates:
        """Return the rates since the last report, without new models. `now` is in seconds."""
        counts = {
            id_: int(model["metrics"]["generatedTokens"]) for id_, model in body["models"].items()
        }
        passed = now - self._at
        rates = {
            id_: max(0, count - self._before[id_]) / passed
            for id_, count in counts.items()
            if id_ in self._before and passed > 0
        }
        self._before, self._at = counts, now
        return rates


async def watch(node: NodeClient, every: float, looks: int | None) -> None:
    """Update the table every `every` seconds, `looks` times; None: until ctrl-C.

    A node that does not answer is reported as unreachable, and shown again once it answers. In a
    pipe every update is printed below the one before.
    """
    speed = Speed()
    if not sys.stdout.isatty():
        async for _ in _ticks(every, looks):
            print_lines(*await _picture(node, speed))
        return
    with Live(auto_refresh=False) as live:
        async for _ in _ticks(every, looks):
            live.update(Group(*await _picture(node, speed)), refresh=True)


async def watch_json(node: NodeClient, every: float, looks: int | None) -> None:
    """Print a line of JSON every `every` seconds: the time, the rates and the body of `/health`.

    Raises NodeUnreachable: a program reads the exit code.
    """
    speed = Speed()
    async for _ in _ticks(every, looks):
        body = await node.health()
        rates = speed.rates_since(body, time.monotonic())
        print_json_line({"at": time.time() * 1000, "tokensPerSecond": rates, "health": body})


async def _ticks(every: float, count: int | None) -> AsyncIterator[None]:
    """Yield `count` times (None: for ever), `every` seconds apart."""
    while count != 0:
        yield
        count = None if count is None else count - 1
        if count != 0:
            await asyncio.sleep(every)


async def _picture(node: NodeClient, speed: Speed) -> list[Text]:
    try:
        body = await node.health()
    except NodeUnreachable as error:
        return [Text(str(error), "red")]
    rates = speed.rates_since(body, time.monotonic())
    return overview(node.url, body, rates, terminal_width())
