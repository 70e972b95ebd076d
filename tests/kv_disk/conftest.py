"""A folder of the cache for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kv_disk.disk_harness import Disk

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "kv")
