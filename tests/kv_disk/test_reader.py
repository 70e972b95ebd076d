"""Records are read on threads, several at once, within a bound on their bytes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mlx_worker.kv_disk.reader import DiskReader, ReadRecord
from tests.kv_disk.disk_harness import Disk, is_right, single

if TYPE_CHECKING:
    from mlx_worker.kv_disk.files.payload import Payload
    from mlx_worker.kv_disk.files.records import Address, Record
    from mlx_worker.kv_disk.reader import DiskRead
    from mlx_worker.kv_disk.store import DiskStore

SECONDS = 30.0
"""Until a test that hangs fails."""


class Gate:
    """A store whose records come when the test lets them."""

    def __init__(self, store: DiskStore) -> None:
        self.store = store
        self.let_go = threading.Semaphore(0)
        self.asked: list[Address] = []
        self.threads: set[threading.Thread] = set()
        self.error: Exception | None = None
        self.changed = threading.Condition()

    def get(self, address: Address, *, apart: bool = False) -> Payload | None:
        with self.changed:
            self.asked.append(address)
            self.threads.add(threading.current_thread())
            self.changed.notify_all()
        assert self.let_go.acquire(timeout=SECONDS)
        if self.error is not None:
            raise self.error
        return self.store.get(address, apart=apart)

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, SECONDS)


class Woken:
    """Counts the calls of `on_loaded`, and waits for them."""

    def __init__(self, reader: DiskReader) -> None:
        self.calls = threading.Semaphore(0)
        reader.on_loaded = self.calls.release

    def wait(self) -> None:
        assert self.calls.acquire(timeout=SECONDS)


def stored(disk: Disk, count: int) -> tuple[DiskStore, list[Record]]:
    store = disk.open()
    records = [single(number) for number in range(count)]
    for record in records:
        store.put(record)
    return store, records


def gated(
    store: DiskStore, max_bytes: int = 1 << 20, threads: int = 4, thread_bytes: int = 1
) -> tuple[Gate, DiskReader]:
    gate = Gate(store)
    reader = DiskReader(gate, max_bytes, threads=threads, thread_bytes=thread_bytes)  # type: ignore[arg-type]
    return gate, reader


def start(reader: DiskReader, records: list[Record], size: int = 64) -> DiskRead:
    return reader.read([record.address for record in records], [size] * len(records))


def take_all(reader: DiskReader, read: DiskRead, woken: Woken, count: int) -> list[ReadRecord]:
    found: list[ReadRecord] = []
    while len(found) < count:
        woken.wait()
        while (loaded := reader.take(read)) is not None:
            found.append(loaded)
    return found


def test_all_records_come_as_they_were_stored(disk: Disk) -> None:
    store, records = stored(disk, 9)
    reader = DiskReader(store, 1 << 20)
    woken = Woken(reader)
    found = take_all(reader, start(reader, records), woken, 9)
    assert sorted(loaded.place for loaded in found) == list(range(9))
    assert all(is_right(records[loaded.place], loaded.payload) for loaded in found)
    assert not reader.nbytes
    assert not reader.has_loaded


def test_several_records_are_read_at_once_within_the_bound(disk: Disk) -> None:
    store, records = stored(disk, 6)
    gate, reader = gated(store, max_bytes=3 * 64)
    woken = Woken(reader)
    read = start(reader, records)
    gate.wait_for(3)
    assert len(gate.asked) == 3  # four threads, but room for three
    gate.let_go.release(6)
    assert len(take_all(reader, read, woken, 6)) == 6


def test_a_small_read_takes_few_threads_from_what_computes(disk: Disk) -> None:
    store, records = stored(disk, 3)
    gate, reader = gated(store, thread_bytes=2 * 64)
    woken = Woken(reader)
    read = start(reader, records)
    gate.let_go.release(3)
    assert len(take_all(reader, read, woken, 3)) == 3
    assert len(gate.threads) <= 2


def test_a_record_larger_than_the_bound_is_read_alone(disk: Disk) -> None:
    store, records = stored(disk, 2)
    gate, reader = gated(store, max_bytes=10)
    woken = Woken(reader)
    read = start(reader, records)
    gate.wait_for(1)
    gate.let_go.release(2)
    woken.wait()
    assert reader.nbytes == 64
    assert len(gate.asked) == 1
    assert reader.take(read) is not None
    gate.wait_for(2)


def test_records_behind_a_cut_are_not_asked_for(disk: Disk) -> None:
    store, records = stored(disk, 5)
    gate, reader = gated(store, threads=1)
    woken = Woken(reader)
    read = start(reader, records)
    gate.wait_for(1)
    reader.cut(read, 2)
    gate.let_go.release(5)
    assert [loaded.place for loaded in take_all(reader, read, woken, 2)] == [0, 1]
    assert gate.asked == [record.address for record in records[:2]]


def test_what_is_read_for_nothing_takes_no_room(disk: Disk) -> None:
    store, records = stored(disk, 3)
    gate, reader = gated(store, max_bytes=64)
    woken = Woken(reader)
    dropped = start(reader, records[:2])
    gate.wait_for(1)
    reader.cut(dropped, 0)
    other = start(reader, records[2:])
    gate.let_go.release(2)
    assert is_right(records[2], take_all(reader, other, woken, 1)[0].payload)
    assert reader.take(dropped) is None
    assert not reader.nbytes


def test_an_error_of_the_store_is_a_record_that_is_not_there(disk: Disk) -> None:
    store, records = stored(disk, 2)
    gate, reader = gated(store)
    gate.error = MemoryError()
    woken = Woken(reader)
    read = start(reader, records)
    gate.let_go.release(2)
    assert {loaded.payload for loaded in take_all(reader, read, woken, 2)} == {None}


def test_work_is_called_while_reads_wait_for_room(disk: Disk) -> None:
    store, records = stored(disk, 2)
    gate, reader = gated(store, max_bytes=64)
    start(reader, records)
    called = threading.Event()
    reader.call(called.set)
    assert called.wait(SECONDS)
    gate.let_go.release(2)
