"""Ends a node that can serve no model for long, if the configuration asks for that.

A service manager then starts the node anew, which may help where new model processes do not.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import NothingServed
from mlx_worker.supervisor.process.pause import PauseDetector

if TYPE_CHECKING:
    from mlx_worker.supervisor.node import Node

CHECK_INTERVAL: Final = 1.0
"""Seconds."""


class Outage:
    """Measures how long every model has been given up. Pure: time is passed in, in seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._since: float | None = None

    def is_over_limit(self, now: float, *, all_given_up: bool, resumed_at: float = 0.0) -> bool:
        """Return True once all models have been given up for the whole limit.

        Nothing before `resumed_at` counts, where this process did not run for a while.
        """
        if not all_given_up:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        self._since = max(self._since, resumed_at)
        return now - self._since >= self._limit


async def end_at_outage(node: Node, limit: float | None) -> None:
    """Raise NothingServed once no model could be served for `limit` seconds; None: never."""
    if limit is None:
        return
    outage, loop = Outage(limit), asyncio.get_running_loop()
    pause = PauseDetector(loop, CHECK_INTERVAL)
    with contextlib.closing(pause):
        ended = False
        while not ended:
            await asyncio.sleep(min(CHECK_INTERVAL, limit))
            resumed_at = pause.after_last_pause(0.0)
            ended = outage.is_over_limit(
                loop.time(), all_given_up=node.all_given_up, resumed_at=resumed_at
            )
    reasons = {id_: model.child.reason for id_, model in node.models.items()}
    node.events.record("outage", level=logging.ERROR, seconds=limit, reasons=reasons)
    detail = "; ".join(f"{id_}: {reason}" for id_, reason in reasons.items())
    raise NothingServed(f"no model could be served for {limit:g} s: {detail}")
