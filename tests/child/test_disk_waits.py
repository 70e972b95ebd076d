"""A disk that hangs is no stall of the child: waiting for it counts as progress, for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from mlx_worker.child.worker import EngineWorker
from mlx_worker.engine.kv.disk.reading import PATIENCE
from mlx_worker.wire.messages import Ping, Pong
from mlx_worker.wire.prompt_cache import CacheCleared, ClearCache
from tests.engine.kv.disk.reading_harness import SECONDS, Place, Process, random_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PROMPT = random_tokens(600, 1)


class SentMessages:
    """The messages of a worker, in place of its pipe."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, messages: Iterable[Any]) -> None:
        self.messages += messages


class Pinged:
    """A worker whose engine has KV on disk."""

    def __init__(self, process: Process) -> None:
        self.sent = SentMessages()
        self.worker = EngineWorker(cast("Any", self.sent), cast("Any", None))
        self.worker._engine = process.engine
        self.worker._disk = process.tier

    def progress(self) -> int:
        self.worker.on_message(Ping(1))
        pong = self.sent.messages.pop()
        assert isinstance(pong, Pong)
        return pong.prepared


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place("tiny", tmp_path)
    first = place.open()
    first.chat(PROMPT)
    first.leave()
    return place


def test_pong_counts_a_read_as_progress_until_the_read_is_given_up(place: Place) -> None:
    process = place.open()
    pinged = Pinged(process)
    assert pinged.progress() == pinged.progress()
    process.store.hold()
    process.admit(PROMPT)
    before = pinged.progress()
    assert pinged.progress() > before
    place.seconds += PATIENCE  # and the thread that owns mlx gives nothing up: it hangs
    assert pinged.progress() == pinged.progress()
    process.store.let_go()


def test_pong_counts_a_clearing_as_progress_until_its_end(place: Place) -> None:
    process = place.open()
    pinged = Pinged(process)
    with process.store._folder.writing:
        assert pinged.worker._forget(process.engine, ClearCache(7)) == []
        before = pinged.progress()
        assert pinged.progress() > before
    clearing = pinged.worker._disk_waits._clearing
    assert clearing is not None
    clearing.join(SECONDS)
    assert pinged.sent.messages == [CacheCleared(7)]
    assert pinged.progress() == pinged.progress()
