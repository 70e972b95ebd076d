"""Start the generations of one request's choices: all of them, or none.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.wire.request import ChatRequest


async def start_choices(
    generate: Callable[[ChatRequest], Coroutine[Any, Any, Generation]],
    requests: Sequence[ChatRequest],
) -> list[Generation]:
    """Return a generation for each request. Raises the first refusal, and then leaves none running.

    All ask for slots at once, so that a queue that is too short for all of them refuses before any
    has begun.
    """
    if len(requests) == 1:
        return [await generate(requests[0])]
    tasks = [asyncio.create_task(generate(request)) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.add_done_callback(_cancel_generation)
            task.cancel()
        raise


def _cancel_generation(task: asyncio.Task[Generation]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().leave()
