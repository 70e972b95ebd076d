"""Requests about the KV on disk while the disk hangs: each takes a thread that never ends."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from mlx_worker.errors import WorkerError
from mlx_worker.supervisor.stored_kv import MOST_CALLS, _on_disk, list_stored
from mlx_worker.wire.messages import DiskCache

if TYPE_CHECKING:
    from pathlib import Path


async def test_calls_beyond_those_that_wait_for_the_disk_are_refused(tmp_path: Path) -> None:
    folder = DiskCache(str(tmp_path / "kv"), 1 << 30, 1 << 30, 0)
    answered, begun = threading.Event(), threading.Semaphore(0)

    def hang() -> bool:
        begun.release()
        return answered.wait()

    held = [asyncio.create_task(_on_disk(hang)) for _ in range(MOST_CALLS)]
    for _ in held:
        await asyncio.to_thread(begun.acquire)
    with pytest.raises(WorkerError, match="earlier requests still wait"):
        await list_stored(folder)
    answered.set()
    assert await asyncio.gather(*held) == [True] * MOST_CALLS
    assert await list_stored(folder) == []
