"""What `doctor` and `check` say of the folder of KV on disk, whatever lies in its place."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_worker.cli.doctor.kv_checks import kv_on_disk
from mlx_worker.config.schema import CacheConfig, Config, ModelConfig
from mlx_worker.config.sizes import LARGEST, Size
from mlx_worker.kv_disk.files.folder import FORMAT_NAME, open_root
from mlx_worker.kv_disk.survey import Survey, survey
from mlx_worker.supervisor.kv_folder import KvFolder
from tests.commands import run
from tests.processes import config_text


def configured(path: Path, *, at_most: int = 10**9, free_min: int = 1) -> Config:
    cache = CacheConfig(path=path, disk_cache_bytes=Size(at_most), disk_free_min=Size(free_min))
    return Config(models=(ModelConfig(id="m", path="m"),), cache=cache)


def test_a_folder_that_is_not_made_yet_is_well_and_is_not_made(tmp_path: Path) -> None:
    found = kv_on_disk(configured(tmp_path / "a/kv"))
    assert (found.severity, found.advice) == ("ok", "")
    assert f"{tmp_path}/a/kv, 0 bytes of at most 1.0 GB" in found.said
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_and_one_with_kv_are_well(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    folder.mkdir(mode=0o700)
    assert kv_on_disk(configured(folder)).severity == "ok"
    assert not list(folder.iterdir())
    os.close(open_root(folder))
    (folder / "segment").write_bytes(b"x" * 5_000_000)
    found = kv_on_disk(configured(folder))
    assert found.severity == "ok"
    assert ", 5.0 MB of at most 1.0 GB, " in found.said


async def test_the_node_that_has_the_folder_is_named(tmp_path: Path) -> None:
    config = configured(tmp_path / "kv")
    node = KvFolder(config.cache)
    await node.open()
    assert kv_on_disk(config).said.endswith(f"used by the node with process {os.getpid()}")
    node.close()
    assert "used by" not in kv_on_disk(config).said


def test_a_volume_that_is_too_full_or_too_small_is_said(tmp_path: Path) -> None:
    full = kv_on_disk(configured(tmp_path / "kv", free_min=LARGEST))
    assert (full.severity, full.said.endswith("nothing is written")) == ("warn", True)
    assert "cache.disk_free_min" in full.advice
    small = kv_on_disk(configured(tmp_path / "kv", at_most=LARGEST))
    assert (small.severity, small.said.endswith("less than it may hold")) == ("warn", True)


def test_a_volume_that_does_not_answer_is_said_after_the_deadline(tmp_path: Path) -> None:
    answers = threading.Event()

    def look(cache: CacheConfig) -> Survey:
        answers.wait()
        return survey(cache)

    found = kv_on_disk(configured(tmp_path / "kv"), 0.01, look)
    answers.set()
    assert found.severity == "warn"
    assert found.said == f"{tmp_path}/kv does not answer within 0.01 s"
    assert "cache.path" in found.advice


def _file(path: Path) -> None:
    path.touch()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def _open_to_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def _other_version(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / FORMAT_NAME).write_text("mlx-worker kv 99\n")


def _something_else(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "letters.txt").touch()


@pytest.mark.parametrize(
    ("make", "said", "advice"),
    [
        (_file, "is no folder", "remove"),
        (_fifo, "is no folder", "remove"),
        (_link, "links are not followed", "name a folder"),
        (_open_to_all, "can be written by other users", "chmod go-rwx"),
        (_other_version, "of another version ('mlx-worker kv 99')", "rm -r"),
        (_something_else, "is no folder of the KV cache", "something else"),
    ],
)
def test_a_folder_that_must_not_be_used_is_left_alone(
    make: Callable[[Path], None], said: str, advice: str, tmp_path: Path
) -> None:
    """A node serves without KV on disk and says why; `doctor` says what to do."""
    folder = tmp_path / "kv"
    make(folder)
    before = folder.lstat().st_mode, sorted(tmp_path.rglob("*"))
    config = configured(folder)
    found = kv_on_disk(config)
    assert found.severity == "warn"
    assert said in found.said
    assert advice in found.advice
    node = KvFolder(config.cache)
    asyncio.run(node.open())
    assert node.settings is None
    assert said in node.off
    assert (folder.lstat().st_mode, sorted(tmp_path.rglob("*"))) == before


def test_check_and_doctor_show_the_bound(tmp_path: Path, nano: Path) -> None:
    file = tmp_path / "mlx-worker.toml"
    cache = f'path = "{tmp_path}/kv"\ndisk_cache_bytes = "2MB"\ndisk_free_min = "1MB"'
    file.write_text(config_text({"nano": nano}, cache=cache))
    line = f"{tmp_path}/kv, 0 bytes of at most 2.0 MB"
    assert f"KV on disk: {line}" in run("check", str(file)).said
    file.write_text(config_text({"nano": nano}))
    assert "KV on disk: off: cache.disk is false" in run("check", str(file)).said
