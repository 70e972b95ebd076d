"""The choices of one answer: begun together, or not at all. [front]"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.wire.request import ChatRequest


async def begin(
    generate: Callable[[ChatRequest], Coroutine[Any, Any, Generation]],
    requests: Sequence[ChatRequest],
) -> list[Generation]:
    """A generation a request. Raises the first refusal, and then leaves none running.

    They ask at once, so that a queue too short for all of them says so before any has worked.
    """
    if len(requests) == 1:
        return [await generate(requests[0])]
    tasks = [asyncio.create_task(generate(request)) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.add_done_callback(_leave)
            task.cancel()
        raise


def _leave(task: asyncio.Task[Generation]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().leave()
