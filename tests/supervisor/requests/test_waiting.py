"""Generations that wait for a child, and the ends of their waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.requests.waiting import WaitingGenerations
from tests.supervisor.requests.test_generation import Heard
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from mlx_worker.supervisor.requests.generation import Generation


class Waits:
    """Waiting generations, and those of them whose wait has ended by itself."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.expired: list[Generation] = []
        self.has_expired = asyncio.Event()
        self.pause = PauseDetector(self.loop, 60, lambda _seconds: None)
        self.waiting = WaitingGenerations(self.pause, self.on_expired)
        self.first, self.second = Heard().it, Heard().it

    def on_expired(self, generation: Generation) -> None:
        self.expired.append(generation)
        self.has_expired.set()


async def test_only_a_wait_with_an_end_that_has_come_expires() -> None:
    waits = Waits()
    waits.waiting.add(waits.first, waits.loop.time())
    waits.waiting.remove(waits.first)
    waits.waiting.add(waits.first, None)
    waits.waiting.add(waits.second, waits.loop.time())
    await soon(waits.has_expired.wait())
    assert waits.expired == [waits.second]
    waits.pause.close()


async def test_an_end_is_replaced_and_gone_with_its_generation() -> None:
    waits = Waits()
    waits.waiting.add(waits.first, waits.loop.time() + 100)
    later = waits.loop.time() + 200
    waits.waiting.set_end(waits.first, later)
    end = waits.waiting.end_of(waits.first)
    assert end is not None
    assert abs(end - later) < 50
    waits.waiting.set_end(waits.first, None)
    assert waits.waiting.end_of(waits.first) is None
    waits.waiting.remove(waits.first)
    waits.waiting.remove(waits.first)
    assert waits.first not in waits.waiting
    assert waits.waiting.end_of(waits.first) is None
    waits.pause.close()


async def test_generations_that_leave_while_others_are_handled_disturb_no_order() -> None:
    waits = Waits()
    waits.waiting.add(waits.first, None)
    waits.waiting.add(waits.second, None)
    seen = []
    for generation in waits.waiting:
        seen.append(generation)
        waits.waiting.remove(generation)
    assert seen == [waits.first, waits.second]
    assert not waits.waiting
