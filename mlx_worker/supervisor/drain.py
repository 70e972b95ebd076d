"""The drain at the end of a node: no new work, and running requests finish within a deadline.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from mlx_worker.errors import NodeDraining

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.process.pause import PauseDetector


class Drain:
    """The drain of one node; `within` is its deadline in seconds."""

    def __init__(self, within: float, pause: PauseDetector) -> None:
        self.is_active = False
        self._within = within
        self._pause = pause
        self._cut_short = asyncio.Event()

    def refusal(self) -> NodeDraining | None:
        """Return why the node takes no new work; None if it does."""
        if not self.is_active:
            return None
        return NodeDraining("the node is draining and takes no new work", retry_after=5)

    def raise_if_active(self) -> None:
        """Raise NodeDraining if the node takes no new work."""
        if (refusal := self.refusal()) is not None:
            raise refusal

    def cut_short(self) -> None:
        """End the drain now: what still runs is cut off."""
        self._cut_short.set()

    async def run(self, models: Iterable[ModelRuntime]) -> None:
        """Wait until the requests of these models have ended, or the drain has to end."""
        either: set[asyncio.Task[Any]] = {
            asyncio.create_task(_ended(models)),
            asyncio.create_task(self._cut_short.wait()),
        }
        with contextlib.suppress(TimeoutError):
            async with self._pause.timeout(self._within):
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in either:
            task.cancel()
        await asyncio.wait(either)


async def _ended(models: Iterable[ModelRuntime]) -> None:
    refusal = NodeDraining("the node is going away", retry_after=5)
    await asyncio.gather(*(model.dispatcher.drain(refusal) for model in models))
