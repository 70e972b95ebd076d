"""A tier is opened beside a load, which does not wait for a disk that hangs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mlx_worker.engine.kv.disk.tier import DiskTier, TierOpening
from mlx_worker.wire.messages import DiskCache
from tests.engine.kv.disk.open_tiers import opened
from tests.engine.kv.disk.reading_harness import GIB, SECONDS, VERSIONS, Place

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_that_opens_too_late_is_released(tmp_path: Path) -> None:
    place = Place("tiny", tmp_path)
    settings = DiskCache(str(place.folder), GIB, GIB, 0)
    answers = threading.Event()

    def open_tier() -> DiskTier:
        assert answers.wait(SECONDS)
        tier = DiskTier.open(settings, place.model, "weights", VERSIONS)
        assert tier is not None
        return opened(tier)

    opening = TierOpening(open_tier)
    assert opening.wait(0) is None
    answers.set()
    opening._thread.join(SECONDS)
    tier = DiskTier.open(settings, place.model, "weights", VERSIONS)  # as the next process does
    assert tier is not None
    assert tier.state.off == ""
    assert tier.store.is_writable
    tier.close(SECONDS)
