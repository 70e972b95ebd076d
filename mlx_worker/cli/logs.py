"""The log lines of a node: the last ones, and new ones as they are written.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mlx_worker.cli.client import NodeClient


async def last_lines(node: NodeClient, model: str | None) -> list[str]:
    """Return the lines that the node has kept, of one model or of all."""
    body = await node.get("/admin/logs", model=model)
    return [format_line(line) for line in body["lines"]]


async def following(node: NodeClient, model: str | None) -> AsyncIterator[str]:
    """Yield lines as they are written, until the node ends."""
    async with node.events("GET", "/admin/logs/stream", model=model) as events:
        async for event in events:
            yield format_line(event)


def format_line(line: Mapping[str, Any]) -> str:
    """Return one line with its time (this machine's clock), its level and a model's process."""
    moment = time.strftime("%H:%M:%S", time.localtime(line["at"] / 1000))
    process = f" [{line['pid']}]" if "pid" in line else ""
    return f"{moment} {line['level']}{process} {line['text']}"
