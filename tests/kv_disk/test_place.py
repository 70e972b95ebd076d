"""Where KV on disk lies by default, and how much."""

import os
from pathlib import Path

import platformdirs
import pytest

from mlx_worker.config.schema import CacheConfig
from mlx_worker.config.sizes import Size
from mlx_worker.kv_disk.place import FOLDER_VARIABLE, MOST_BY_DEFAULT, capacity_of, kv_folder
from mlx_worker.kv_disk.reports import StoreOutcome
from mlx_worker.kv_disk.space import Limits
from mlx_worker.kv_disk.store import DiskStore
from tests.kv_disk.disk_harness import IDENTITY, single

GB = 10**9


def test_the_folder_is_the_configurations_then_the_variables_then_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "named"))
    assert kv_folder(CacheConfig(path=tmp_path / "kv")) == tmp_path / "kv"
    assert kv_folder(CacheConfig()) == tmp_path / "named"
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    assert kv_folder(CacheConfig()) == platformdirs.user_cache_path("mlx-worker") / "kv"


def test_no_node_of_a_test_finds_the_users_folder() -> None:
    assert kv_folder(CacheConfig()) == Path(os.devnull)


def test_by_default_a_tenth_is_kept_and_does_not_shrink_with_what_is_kept() -> None:
    assert capacity_of(CacheConfig(), free=500 * GB, held=0) == 50 * GB
    assert capacity_of(CacheConfig(), free=450 * GB, held=50 * GB) == 50 * GB
    assert capacity_of(CacheConfig(), free=9000 * GB, held=0) == MOST_BY_DEFAULT
    assert capacity_of(CacheConfig(disk_cache_bytes=Size(7)), free=1, held=2) == 7


def test_a_volume_that_is_full_has_a_bound_that_a_store_takes(tmp_path: Path) -> None:
    capacity = capacity_of(CacheConfig(), free=0, held=0)
    store = DiskStore(
        tmp_path / "kv", IDENTITY, Limits(capacity, GB, GB), report=print, free_bytes=lambda _: 0
    )
    assert store.put(single(1)) is StoreOutcome.FULL
    store.close()
