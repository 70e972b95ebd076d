"""The disk's time for a reload."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from mlx_worker.api.admin.reload import DISK_TIMEOUT, CannotReload, ConfigReloader
from mlx_worker.api.middleware.credentials import Credentials
from mlx_worker.config.load import parse_config
from mlx_worker.config.schema import ServerConfig
from mlx_worker.models.weight_types import AS_STORED
from mlx_worker.supervisor.process.pause import PauseDetector
from tests.loop_clock import LoopClock

if TYPE_CHECKING:
    from mlx_worker.supervisor.node import Node

CONFIG = parse_config(
    'models = [{ id = "m", path = "m" }]', source="a test", folder=Path("/nowhere")
)


async def test_reload_does_not_count_time_in_which_the_machine_slept() -> None:
    clock, answers = LoopClock(), threading.Event()
    node = cast("Node", SimpleNamespace(pause=PauseDetector(clock, 1.0)))
    reloader = ConfigReloader(CONFIG, node, Credentials(ServerConfig()), lambda _: AS_STORED)
    reading = asyncio.ensure_future(reloader._within_deadline(answers.wait, "the share"))
    await asyncio.sleep(0)
    clock.run(DISK_TIMEOUT - 1)
    clock.stop(3600)
    clock.run(DISK_TIMEOUT - 1)
    await asyncio.sleep(0)
    assert not reading.done()
    clock.run(2)
    with pytest.raises(CannotReload, match="does not answer within 10 s"):
        await reading
    answers.set()
