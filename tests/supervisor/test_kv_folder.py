"""The node's folder of KV on disk, as the front sees it: lock, bounds, what children get."""

import asyncio
import logging
import os
import threading
from functools import partial
from pathlib import Path

import pytest

from mlx_worker.config.schema import CacheConfig
from mlx_worker.config.sizes import Size
from mlx_worker.supervisor.kv_folder import TURNED_OFF, KvFolder, OpenFolder, open_kv_folder
from mlx_worker.wire.messages import DiskCache
from tests.supervisor_harness import eventually, kill_worker, ready, running, scripted


def configured(path: Path) -> CacheConfig:
    return CacheConfig(
        path=path,
        disk_cache_bytes=Size(10**9),
        disk_writes_per_day=Size(2 * 10**9),
        disk_free_min=Size(1),
    )


def open_when(answers: threading.Event, config: CacheConfig) -> OpenFolder:
    """Open the folder on a disk that answers late."""
    answers.wait()
    return open_kv_folder(config)


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
    assert str(tmp_path / "kv") in second.off
    assert "used by another node" in second.off
    first.close()
    await second.open()
    assert second.settings is not None
    assert second.off == ""
    second.close()


async def test_a_node_has_the_folder_from_the_next_process_on(tmp_path: Path) -> None:
    """Another node had the folder at the start, and has gone since."""
    other = KvFolder(configured(tmp_path / "kv"))
    await other.open()
    async with running(launcher=scripted(), cache=configured(tmp_path / "kv")) as node:
        await ready(node)
        assert node.primary.load.disk is None
        other.close()
        kill_worker(node.primary.child.status.pid)

        async def has_the_folder() -> bool:
            return node.primary.load.disk is not None

        await eventually(has_the_folder)
    await other.open()
    assert other.settings is not None, "the node has released the folder at its end"
    other.close()


async def test_a_disk_that_does_not_answer_holds_up_no_start(tmp_path: Path) -> None:
    """The node starts without the folder, and has the folder once the disk has answered."""
    answers = threading.Event()
    folder = KvFolder(configured(tmp_path / "kv"), 0, partial(open_when, answers))
    await folder.open()
    assert folder.settings is None
    assert "does not answer within 0 s" in folder.off
    answers.set()

    async def is_open() -> bool:
        await folder.open()
        return folder.settings is not None

    await eventually(is_open)
    assert folder.off == ""
    folder.close()


async def test_a_folder_that_opens_after_the_node_has_ended_is_released(tmp_path: Path) -> None:
    answers, other = threading.Event(), None
    late = KvFolder(configured(tmp_path / "kv"), 0, partial(open_when, answers))
    await late.open()
    late.close()
    answers.set()

    async def is_free() -> bool:
        nonlocal other
        other = KvFolder(configured(tmp_path / "kv"))
        await other.open()
        return other.settings is not None

    await eventually(is_free)
    assert other is not None
    other.close()


def test_the_log_says_where_and_how_much_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = KvFolder(configured(tmp_path / "kv"))

    async def opened_twice() -> None:
        await folder.open()
        await folder.open()

    asyncio.run(opened_twice())
    folder.close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"path={tmp_path}/kv" in line
    assert 'at_most="1.0 GB" writes_per_day="2.0 GB"' in line


@pytest.mark.parametrize("path", ["/dev/null/kv", "/proc/kv", "/x\0y", "/" + "long" * 99])
async def test_a_path_that_can_be_no_folder_turns_the_disk_off(path: str) -> None:
    folder = KvFolder(configured(Path(path)))
    await folder.open()
    assert folder.settings is None
    assert path[:5] in folder.off
    folder.close()
