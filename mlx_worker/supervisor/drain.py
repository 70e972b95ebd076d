"""Drains: no new work, and running requests finish within a deadline.

The whole node drains at its end. A model that a reload has removed has a drain of its own.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from mlx_worker.errors import ModelLoading, NodeDraining, UnknownModel, WorkerError
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlx_worker.supervisor.background import BackgroundTasks
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


class Retirement:
    """Ends models that a reload has removed, each within the deadline `within`, in seconds.

    `on_drained` is called once a model's requests have ended, `on_retired` once its process has.
    """

    def __init__(
        self,
        within: float,
        pause: PauseDetector,
        background: BackgroundTasks,
        on_drained: Callable[[ModelRuntime], None],
        on_retired: Callable[[], None],
    ) -> None:
        self._within = within
        self._pause = pause
        self._background = background
        self._on_drained = on_drained
        self._on_retired = on_retired
        self._models: set[ModelRuntime] = set()

    def __iter__(self) -> Iterator[ModelRuntime]:
        """Iterate over the models whose process has not ended."""
        return iter(self._models)

    def begin(self, model: ModelRuntime, *, is_replaced: bool) -> None:
        """End a model, in a task of its own. `is_replaced`: another model has its id."""
        self._models.add(model)
        model.retired_by = refusal = _removed(model.config.id, is_replaced=is_replaced)
        self._background.run(self._end(model, refusal))

    async def _end(self, model: ModelRuntime, refusal: WorkerError) -> None:
        with contextlib.suppress(TimeoutError):
            async with self._pause.timeout(self._within):
                await model.dispatcher.drain(refusal)
        self._on_drained(model)
        model.child.stop()
        model.child.cut_drain_short()
        await model.child.reached(State.STOPPED, State.FAILED)
        await model.child.close()
        model.idle.close()
        model.kv_events.close()
        self._models.discard(model)
        self._on_retired()


def _removed(id_: str, *, is_replaced: bool) -> WorkerError:
    """Return why a model that a reload has removed takes no work any more."""
    if is_replaced:
        return ModelLoading(f"model {id_!r} was replaced by another folder", retry_after=1)
    return UnknownModel(f"model {id_!r} was removed from the configuration", param="model")


async def _ended(models: Iterable[ModelRuntime]) -> None:
    refusal = NodeDraining("the node is going away", retry_after=5)
    await asyncio.gather(*(model.dispatcher.drain(refusal) for model in models))
