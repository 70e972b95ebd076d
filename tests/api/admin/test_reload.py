"""The disk's time for a reload."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from mlx_worker.api.admin.reload import DISK_TIMEOUT, CannotReload, ConfigReloader
from mlx_worker.config.load import load_config, parse_config
from mlx_worker.config.schema import Config, ServerConfig
from mlx_worker.models.weight_types import AS_STORED
from mlx_worker.security.credentials import Credentials
from mlx_worker.supervisor.kv_folder import KvFolder
from mlx_worker.supervisor.process.pause import PauseDetector
from tests.loop_clock import LoopClock
from tests.supervisor_harness import planned, ready, running, scripted

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


async def test_another_cache_section_restarts_what_keeps_kv_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "mlx-worker.toml"

    def configured(cache: str) -> Config:
        models = '[[models]]\nid = "a"\npath = "a"\n[[models]]\nid = "b"\npath = "b"\n'
        file.write_text(f"{models}disk_cache = false\n[cache]\n{cache}\n")
        return load_config(file)

    config = configured('path = "kv"\ndisk_cache_bytes = "1GB"')
    models = (planned("a"), planned("b", disk_cache=False))
    async with running(*models, launcher=scripted(), cache=config.cache) as node:
        await ready(node)
        reloader = ConfigReloader(config, node, Credentials(config.server), lambda _: AS_STORED)
        assert (await reloader()).restarted == [], "the file is as it was"
        config = configured('path = "kv"\ndisk_cache_bytes = "2GB"')
        reloaded = await reloader()
        assert (reloaded.restarted, reloaded.needs_restart) == (["a"], [])
        assert reloader.effective.cache == config.cache
        disk = node.named("a").load.disk
        assert disk is not None
        assert (disk.path, disk.capacity) == (str(tmp_path / "kv"), 2 * 10**9)
        configured("disk = false")
        assert (await reloader()).restarted == ["a"]
        assert node.named("a").load.disk is None
        other = KvFolder(config.cache)
        await other.open()
        assert other.settings == disk, "the folder is free for another node"
        configured('path = "kv"')
        assert (await reloader()).restarted == [], "there is none before, and none now"
        assert "used by another node" in node.kv_folder.off
        other.close()
        assert (await reloader()).restarted == [], "processes to come keep KV on disk"
        assert node.named("a").load.disk is not None
