"""The queue is bounded and never waited for; a drain has a deadline."""

from __future__ import annotations

import fcntl
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mlx_worker.kv_disk.reports import StoreOutcome
from mlx_worker.kv_disk.writer import DiskWriter, Queued
from tests.kv_disk.disk_harness import Disk, is_right, single

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.kv_disk.store import DiskStore

PATIENCE = 60.0


class Gate:
    """Holds the writer inside its first write."""

    def __init__(self, disk: Disk) -> None:
        self.is_reached = threading.Event()
        self.opened = threading.Event()
        disk.before_write = self._hold

    def _hold(self, _size: int) -> None:
        self.is_reached.set()
        assert self.opened.wait(PATIENCE)


@pytest.fixture
def gate(disk: Disk) -> Iterator[Gate]:
    gate = Gate(disk)
    yield gate
    gate.opened.set()


@pytest.fixture
def store(disk: Disk) -> Iterator[DiskStore]:
    store = disk.open()
    yield store
    store.close()


def test_all_that_is_added_is_written(store: DiskStore) -> None:
    writer = DiskWriter(store)
    writer.start()
    records = [single(number) for number in range(50)]
    for record in records:
        writer.add(record)
    assert writer.drain(PATIENCE)
    assert writer.queued == Queued(0, 0, 0)
    assert all(is_right(record, store.get(record.address)) for record in records)
    assert writer.close(PATIENCE)


def test_a_full_queue_drops_the_oldest_and_keeps_its_bound(store: DiskStore, gate: Gate) -> None:
    writer = DiskWriter(store, max_bytes=1000)
    writer.start()
    writer.add(single(0, nbytes=400))
    assert gate.is_reached.wait(PATIENCE)
    for number in range(1, 5):
        writer.add(single(number, nbytes=300))
        assert writer.queued.nbytes <= 1000
    assert writer.queued == Queued(2, 1000, 2)
    writer.add(single(6, nbytes=1001))
    writer.add(single(7, nbytes=700))  # what is being written cannot be dropped
    assert writer.queued == Queued(0, 400, 6)
    gate.opened.set()
    assert writer.close(PATIENCE)
    assert [store.contains(single(number).address) for number in (0, 1, 3, 7)] == [
        True,
        *[False] * 3,
    ]


def test_a_drain_ends_at_its_deadline(store: DiskStore, gate: Gate) -> None:
    writer = DiskWriter(store)
    writer.start()
    writer.add(single(0))
    writer.add(single(1))
    assert gate.is_reached.wait(PATIENCE)
    assert not writer.drain(0.01)
    assert not writer.close(0.01)
    writer.add(single(2))
    assert writer.queued.dropped == 2
    gate.opened.set()
    assert writer.close(PATIENCE)
    assert [store.contains(single(number).address) for number in range(3)] == [True, False, False]


def test_what_is_being_written_is_on_disk_once_the_queue_is_cleared(
    store: DiskStore, gate: Gate
) -> None:
    writer = DiskWriter(store)
    writer.start()
    for number in range(3):
        writer.add(single(number))
    assert gate.is_reached.wait(PATIENCE)
    clearing = threading.Thread(target=writer.clear)
    clearing.start()
    clearing.join(0.05)
    assert clearing.is_alive()
    gate.opened.set()
    clearing.join(PATIENCE)
    assert store.contains(single(0).address)  # so a clear of the store finds it
    assert store.clear()
    assert writer.close(PATIENCE)
    assert store.statistics.records == 0


def test_a_defect_at_one_record_costs_no_other(store: DiskStore) -> None:
    writer = DiskWriter(store)
    writer.start()
    writer.add(replace(single(0), start=None))  # type: ignore[arg-type]
    writer.add(single(1))
    assert writer.drain(PATIENCE)
    assert store.contains(single(1).address)
    assert writer.queued.nbytes == 0
    assert writer.close(PATIENCE)


def test_a_record_that_finds_the_account_busy_is_dropped_and_counted(
    disk: Disk, store: DiskStore
) -> None:
    assert store.put(single(0), essential=True) is StoreOutcome.STORED
    with (disk.folder / "account").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a process does that was stopped meanwhile
        writer = DiskWriter(store)
        writer.start()
        writer.add(single(1), essential=True)
        assert writer.drain(PATIENCE)
        assert writer.queued.dropped == 1
    writer.add(single(2), essential=True)
    assert writer.drain(PATIENCE)
    assert writer.queued.dropped == 1
    assert [store.contains(single(number).address) for number in (1, 2)] == [False, True]
    assert writer.close(PATIENCE)
