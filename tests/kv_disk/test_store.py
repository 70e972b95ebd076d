"""What a store gives back, and what becomes of it when a disk or a child fails."""

from __future__ import annotations

import errno
import shutil
import threading
from dataclasses import replace

import pytest

from mlx_worker.kv_disk.availability import RETRY_SECONDS
from mlx_worker.kv_disk.files.keys import chain
from mlx_worker.kv_disk.files.payload import ArrayBytes, Dtype, LayerBytes, LayerFamily
from mlx_worker.kv_disk.files.records import Kind
from mlx_worker.kv_disk.reports import StoreOutcome
from mlx_worker.kv_disk.store import SAVE_SECONDS
from tests.kv_disk.disk_harness import IDENTITY, Disk, is_right, record_of, single

RECORDS = [record_of(link) for link in chain(IDENTITY, list(range(700)))]


@pytest.mark.parametrize("has_index", [True, False])
def test_records_are_found_after_a_restart(disk: Disk, has_index: bool) -> None:
    store = disk.open()
    assert {store.put(record) for record in RECORDS} == {StoreOutcome.STORED}
    assert store.put(RECORDS[0]) is StoreOutcome.KNOWN
    store.close()
    if not has_index:
        disk.lose_index()
    store = disk.open()
    assert all(store.contains(record.address) for record in RECORDS)
    assert all(is_right(record, store.get(record.address)) for record in RECORDS)
    assert (store.statistics.hits, store.statistics.misses) == (3, 0)
    store.close()
    assert disk.lines == []


def test_records_are_found_after_a_process_died_without_a_word(disk: Disk) -> None:
    """Nothing is closed: the descriptors and the lock go with the process."""
    store = disk.open()
    store.put(single(1))
    twin = Disk(disk.folder.with_name("after"))
    shutil.copytree(disk.folder, twin.folder)
    twin.folder.chmod(0o700)
    again = twin.open()
    assert is_right(single(1), again.get(single(1).address))
    again.close()
    store.close()


def test_a_saved_index_is_not_believed_over_the_segment(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1))
    store.close()
    saved = next(disk.folder.glob("*/index")).read_bytes()
    store = disk.open()
    store.put(single(2))
    store.delete(single(1).address)
    store.close()
    next(disk.folder.glob("*/index")).write_bytes(saved)
    store = disk.open()
    assert store.get(single(1).address) is None
    assert is_right(single(2), store.get(single(2).address))
    store.close()


def test_a_chunk_without_the_chunk_before_is_refused(disk: Disk) -> None:
    store = disk.open()
    assert store.put(RECORDS[1]) is StoreOutcome.ORPHAN
    assert store.put(record_of(chain(IDENTITY, [1])[0], kind=Kind.STATE)) is StoreOutcome.STORED
    store.close()


@pytest.mark.parametrize("has_index", [True, False])
def test_a_deleted_record_does_not_come_back(disk: Disk, has_index: bool) -> None:
    store = disk.open()
    store.put(single(1))
    store.put(single(2))
    store.delete(single(1).address)
    store.delete(single(1).address)
    store.close()
    if not has_index:
        disk.lose_index()
    store = disk.open()
    assert store.get(single(1).address) is None
    assert is_right(single(2), store.get(single(2).address))
    store.delete(single(2).address)
    assert disk.segments == []
    store.close()


def test_clear_leaves_nothing(disk: Disk) -> None:
    store = disk.open()
    for number in range(5):
        store.put(single(number))
    store.clear()
    assert disk.segments == []
    assert store.statistics.records == store.statistics.nbytes == 0
    assert store.put(single(1)) is StoreOutcome.STORED
    store.close()


def test_verify_deletes_what_is_not_right(disk: Disk) -> None:
    store = disk.open()
    for number in range(5):
        store.put(single(number))
    content = bytearray(disk.segments[0].read_bytes())
    content[-1] ^= 1
    disk.segments[0].write_bytes(content)
    assert store.verify() == (4, 1)
    assert store.verify() == (4, 0)
    assert store.statistics.corrupt == 1
    store.close()


def test_what_a_crash_left_of_a_save_is_removed(disk: Disk) -> None:
    disk.open().close()
    left = next(disk.folder.glob("?" * 32)) / "index.new"
    left.write_bytes(b"half of an ind")
    left.chmod(0o600)
    disk.open().close()
    assert not left.exists()


def test_the_index_is_saved_from_time_to_time(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1))
    store.maintain()
    assert not list(disk.folder.glob("*/index"))
    disk.monotonic += SAVE_SECONDS
    store.maintain()
    assert list(disk.folder.glob("*/index"))
    store.close()


def test_reads_beside_writes_and_evictions_are_right(disk: Disk) -> None:
    store = disk.open(capacity=128 * 1024)
    records = [single(number, nbytes=6 * 1024) for number in range(200)]
    wrong: list[int] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            for number, record in enumerate(records):
                found = store.get(record.address)
                if found is not None and not is_right(record, found):
                    wrong.append(number)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for record in records:
            store.put(record, essential=True)
    finally:
        is_over.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert store.statistics.evicted_segments
    assert store.statistics.corrupt == 0
    assert disk.lines == []
    store.close()


def test_a_record_of_more_arrays_than_one_write_takes_is_read_back(disk: Disk) -> None:
    arrays = tuple(ArrayBytes(Dtype.UINT8, (2,), bytes([place, 1])) for place in range(12))
    payload = (LayerBytes(LayerFamily.ARRAYS, (), arrays),) * 100
    record = replace(single(1), payload=payload)
    store = disk.open()
    assert store.put(record) is StoreOutcome.STORED
    assert is_right(record, store.get(record.address))
    store.close()


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all_of_them(disk: Disk) -> None:
    disk.most_bytes = 7
    store = disk.open()
    for number in range(5):
        assert store.put(single(number)) is StoreOutcome.STORED
    assert all(is_right(single(number), store.get(single(number).address)) for number in range(5))
    disk.most_bytes = 0
    disk.monotonic += 1
    assert store.put(single(9)) is StoreOutcome.OFF
    assert len(disk.lines) == 1
    store.close()


# --- failures of the disk ---


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failing_disk_turns_the_tier_off_with_one_line_until_it_heals(
    disk: Disk, code: int
) -> None:
    store = disk.open()
    store.put(single(1))
    disk.error = code
    assert [store.put(single(number)) for number in (2, 3)] == [StoreOutcome.OFF, StoreOutcome.OFF]
    disk.monotonic += RETRY_SECONDS
    assert store.put(single(4)) is StoreOutcome.OFF
    assert len(disk.lines) == 1
    assert store.statistics.off
    readable = code != errno.EIO
    assert is_right(single(1), store.get(single(1).address)) == readable
    disk.error = None
    assert store.put(single(5)) is StoreOutcome.OFF
    disk.monotonic += RETRY_SECONDS
    assert store.put(single(6)) is StoreOutcome.STORED
    assert len(disk.lines) == 2
    assert "on again" in disk.lines[1]
    assert not store.statistics.off
    for number, is_there in ((1, True), (2, False), (6, True)):
        assert is_right(single(number), store.get(single(number).address)) == is_there
    store.close()
    disk.lose_index()
    store = disk.open()
    assert is_right(single(6), store.get(single(6).address))
    store.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_tier_without_records_to_write_is_on_again_when_the_disk_heals(
    disk: Disk, code: int
) -> None:
    store = disk.open()
    store.put(single(1))
    disk.error = code
    assert store.put(single(2)) is StoreOutcome.OFF
    disk.monotonic += RETRY_SECONDS
    store.maintain()
    assert store.statistics.off
    disk.error = None
    store.maintain()
    assert store.statistics.off  # the disk is asked at times
    written = store.statistics.written_today
    disk.monotonic += RETRY_SECONDS
    store.maintain()
    assert store.statistics.off == ""
    assert store.is_writable
    assert [("on again" in line) for line in disk.lines] == [False, True]
    assert not list(disk.folder.glob("*/index.new"))
    assert store.statistics.written_today > written
    store.maintain()
    assert len(disk.lines) == 2
    store.close()


def test_a_vanished_volume_is_not_written_beside_its_mount_point(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1))
    away = disk.folder.with_name("away")
    disk.folder.rename(away)
    assert store.put(single(2)) is StoreOutcome.OFF
    disk.folder.mkdir(mode=0o700)  # the mount point without the volume
    disk.monotonic += RETRY_SECONDS
    store.maintain()
    assert store.put(single(2)) is StoreOutcome.OFF
    assert list(disk.folder.iterdir()) == []
    disk.folder.rmdir()
    away.rename(disk.folder)
    disk.monotonic += RETRY_SECONDS
    store.maintain()
    assert store.put(single(2)) is StoreOutcome.STORED
    assert is_right(single(1), store.get(single(1).address))
    assert len(disk.lines) == 2
    store.close()


# --- crash suspicion ---


def test_a_suspect_is_read_only_apart_and_used_again_after_a_trial(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1))
    address = single(1).address
    store.suspect([address])
    store.close()
    disk.lose_index()
    store = disk.open()
    assert store.statistics.quarantined == 1
    assert store.put(single(1)) is StoreOutcome.KNOWN
    assert not store.contains(address)
    assert store.get(address) is None
    assert is_right(single(1), store.get(address, apart=True))
    store.absolve([address])
    assert is_right(single(1), store.get(address))
    assert store.statistics.quarantined == 0
    store.close()


@pytest.mark.parametrize("is_told", [True, False])
def test_a_suspect_whose_trial_ends_in_a_crash_is_deleted(disk: Disk, is_told: bool) -> None:
    store = disk.open()
    store.put(single(1))
    address = single(1).address
    store.suspect([address])
    store.get(address, apart=True)
    if is_told:
        store.suspect([address])
    store.close()
    store = disk.open()
    assert store.get(address, apart=True) is None
    assert store.statistics.records == 0
    assert store.put(single(1)) is StoreOutcome.STORED
    store.close()


def test_suspects_of_a_folder_that_cannot_be_opened_yet_are_set_aside_later(disk: Disk) -> None:
    first = disk.open()
    first.put(single(1))
    second = disk.open()
    second.suspect([single(1).address])
    first.close()
    disk.monotonic += RETRY_SECONDS
    second.maintain()
    assert second.statistics.quarantined == 1
    assert second.get(single(1).address) is None
    assert is_right(single(1), second.get(single(1).address, apart=True))
    second.close()


def test_a_suspect_on_a_read_only_volume_is_not_read(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1))
    disk.error = errno.EROFS
    store.suspect([single(1).address])
    assert not store.contains(single(1).address)
    assert store.get(single(1).address) is None
    assert store.get(single(1).address, apart=True) is None  # the trial could not be recorded
    store.close()
