"""The status table, live, with tokens per second from two successive reports.

[front]
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.text import Text

from mlx_worker.cli.status import Rates, overview
from mlx_worker.errors import NodeUnreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console, RenderableType

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


async def watch(node: NodeClient, every: float, console: Console, looks: int | None) -> None:
    """Update the table every `every` seconds, `looks` times; None: until ctrl-C.

    A node that does not answer is reported as unreachable, and shown again once it answers.
    """
    speed = Speed()
    with Live(console=console, auto_refresh=False) as live:
        while looks != 0:
            live.update(await _picture(node, speed), refresh=True)
            looks = None if looks is None else looks - 1
            if looks != 0:
                await asyncio.sleep(every)


async def _picture(node: NodeClient, speed: Speed) -> RenderableType:
    try:
        body = await node.health()
    except NodeUnreachable as error:
        return Text(str(error), "red")
    return overview(node.url, body, speed.rates_since(body, time.monotonic()))
