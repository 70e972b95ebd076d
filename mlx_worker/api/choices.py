"""The choices of one answer: begun together, heard as they speak, left together. [front]"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from mlx_worker.supervisor.generation import Generation, Piece
    from mlx_worker.wire.messages import ChatRequest


async def begin(
    generate: Callable[[ChatRequest], Coroutine[Any, Any, Generation]],
    requests: Sequence[ChatRequest],
) -> list[Generation]:
    """A generation a request. Raises the first refusal, and then leaves none running.

    They ask at once, so that a queue too short for all of them says so before any has worked.
    """
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


async def heard(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Piece]]:
    """(choice, piece) in the order they are said. Raises what went wrong with any of them."""
    if len(generations) == 1:  # by far the most: no task a piece
        while (piece := await generations[0].take()) is not None:
            yield 0, piece
        return
    takes = {asyncio.create_task(it.take()): choice for choice, it in enumerate(generations)}
    try:
        while takes:
            done, _ = await asyncio.wait(takes, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                choice = takes.pop(task)
                if (piece := task.result()) is not None:
                    takes[asyncio.create_task(generations[choice].take())] = choice
                    yield choice, piece
    finally:
        for task in takes:
            task.cancel()
        await asyncio.gather(*takes, return_exceptions=True)
