"""The node's folder of KV on disk, as the front sees it: lock, bounds, what children get."""

import os
from pathlib import Path

from mlx_worker.config.schema import CacheConfig
from mlx_worker.config.sizes import Size
from mlx_worker.supervisor.kv_folder import TURNED_OFF, KvFolder
from mlx_worker.wire.messages import DiskCache


def configured(path: Path) -> CacheConfig:
    return CacheConfig(
        path=path,
        disk_cache_bytes=Size(10**9),
        disk_writes_per_day=Size(2 * 10**9),
        disk_free_min=Size(1),
    )


async def test_a_new_process_is_told_of_the_folder_and_its_bounds(tmp_path: Path) -> None:
    folder = KvFolder(configured(tmp_path / "kv"))
    assert folder.settings is None, "nothing is promised before the disk has answered"
    await folder.open()
    assert folder.settings == DiskCache(str(tmp_path / "kv"), 10**9, 2 * 10**9, 1)
    assert folder.off == ""
    folder.close()


async def test_a_folder_that_is_turned_off_is_not_made(tmp_path: Path) -> None:
    folder = KvFolder(CacheConfig(disk=False, path=tmp_path / "kv"))
    await folder.open()
    assert folder.settings is None
    assert folder.off == TURNED_OFF
    assert os.listdir(tmp_path) == []  # noqa: PTH208  (no wait for a disk in a test)


async def test_the_second_node_has_the_folder_once_the_first_has_gone(tmp_path: Path) -> None:
    first, second = (KvFolder(configured(tmp_path / "kv")) for _ in range(2))
    await first.open()
    await second.open()
    assert second.settings is None
    assert "used by another node" in second.off
    first.close()
    await second.open()
    assert second.settings is not None
    assert second.off == ""
    second.close()
