"""The end of a node that can serve no model for long, where the configuration asks for that.

A service manager starts the node anew, which may help where processes alone do not. [front]
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import NothingServed

if TYPE_CHECKING:
    from mlx_worker.supervisor.node import Node

LOOK_EVERY: Final = 1.0
"""Seconds."""


class Outage:
    """How long every model has been given up. Pure: time is passed in, in seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._since: float | None = None

    def is_over_limit(self, now: float, *, all_given_up: bool) -> bool:
        """Return True once all models have been given up for the whole limit."""
        if not all_given_up:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self._limit


async def end_at_outage(node: Node, limit: float | None) -> None:
    """Raise NothingServed once no model could be served for `limit` seconds; None: never."""
    if limit is None:
        return
    outage, loop = Outage(limit), asyncio.get_running_loop()
    while not outage.is_over_limit(loop.time(), all_given_up=node.all_given_up):  # noqa: ASYNC110  (of many models)
        await asyncio.sleep(min(LOOK_EVERY, limit))
    reasons = {id_: served.child.reason for id_, served in node.models.items()}
    node.events.happened("outage", level=logging.ERROR, seconds=limit, reasons=reasons)
    said = "; ".join(f"{id_}: {reason}" for id_, reason in reasons.items())
    raise NothingServed(f"no model could be served for {limit:g} s: {said}")
