"""The bounds hold at every write, and what goes first is what is worth least."""

from __future__ import annotations

import itertools
import random
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_worker.kv_disk.account import DAY
from mlx_worker.kv_disk.files.index import HALF_LIFE
from mlx_worker.kv_disk.files.keys import chain
from mlx_worker.kv_disk.reports import StoreOutcome
from mlx_worker.kv_disk.space import NEED_SECONDS, Limits
from tests.kv_disk.disk_harness import (
    IDENTITY,
    MIB,
    OTHER,
    Disk,
    bytes_below,
    is_right,
    record_of,
    single,
)

if TYPE_CHECKING:
    from mlx_worker.kv_disk.files.records import Record
    from mlx_worker.kv_disk.store import DiskStore

KIB = 1024


def watch(disk: Disk, capacity: int, free_min: int = 0) -> list[int]:
    """Assert the bounds at every write from now on; return the sizes seen."""
    seen: list[int] = []

    def before_write(size: int) -> None:
        total = bytes_below(disk.folder) + size
        seen.append(total)
        assert total <= capacity
        assert disk.volume - disk.foreign_bytes - total >= free_min

    disk.before_write = before_write
    return seen


def test_the_folder_is_never_larger_than_its_bound(disk: Disk) -> None:
    capacity = 256 * KIB
    seen = watch(disk, capacity)
    chooser = random.Random(3)
    for run in range(4):
        stores = [disk.open(capacity=capacity), disk.open(OTHER, capacity=capacity)]
        for number in range(60):
            store = chooser.choice(stores)
            store.put(
                single(run * 100 + number, nbytes=chooser.randrange(1, 20 * KIB)),
                essential=chooser.random() < 0.3,
            )
            store.maintain()
            assert bytes_below(disk.folder) <= capacity
        for store in stores:
            store.close()
            assert bytes_below(disk.folder) <= capacity
    assert max(seen) > capacity * 0.8
    assert disk.lines == []


def test_statistics_say_what_was_measured_last(disk: Disk) -> None:
    store = disk.open(segment_bytes=1000)
    for number in range(40):
        store.put(single(number, nbytes=900))
        # The account is made by the first write, behind the measurement.
        assert store.statistics.total_bytes == pytest.approx(bytes_below(disk.folder), abs=80)
        assert store.statistics.written_today == store.statistics.nbytes
    (disk.folder / "of another model").write_bytes(bytes(5000))
    assert store.statistics.total_bytes < bytes_below(disk.folder)
    store.maintain()
    assert store.statistics.total_bytes == bytes_below(disk.folder)
    disk.time += DAY
    store.maintain()
    assert store.statistics.written_today == 0
    store.close()
    store = disk.open()
    assert store.statistics.total_bytes == bytes_below(disk.folder)
    store.close()


@pytest.mark.parametrize(
    "bounds",
    [
        {"capacity": 0},
        {"capacity": -1},
        {"capacity": 1 << 63},
        {"writes_per_day": -1},
        {"free_min": -1},
        {"segment_bytes": 0},
        {"segment_bytes": 1 << 62},
    ],
)
def test_bounds_that_no_folder_can_keep_are_refused(bounds: dict[str, int]) -> None:
    sound = {"capacity": MIB, "writes_per_day": MIB, "free_min": 0}
    with pytest.raises(ValueError, match="bytes"):
        Limits(**(sound | bounds))


def test_a_record_larger_than_the_bound_evicts_nothing(disk: Disk) -> None:
    store = disk.open(capacity=64 * KIB)
    store.put(single(1))
    assert store.put(single(2, nbytes=65 * KIB), essential=True) is StoreOutcome.FULL
    assert store.contains(single(1).address)
    store.close()


def test_a_lower_bound_is_kept_after_a_restart(disk: Disk) -> None:
    store = disk.open(capacity=512 * KIB)
    for number in range(40):
        store.put(single(number, nbytes=10 * KIB))
    store.close()
    store = disk.open(capacity=100 * KIB)
    store.maintain()
    assert bytes_below(disk.folder) <= 100 * KIB
    assert store.statistics.records
    store.close()


def test_free_bytes_are_kept_also_where_others_fill_the_volume(disk: Disk) -> None:
    disk.volume = MIB
    store = disk.open(free_min=256 * KIB, segment_bytes=32 * KIB)
    watch(disk, MIB, 256 * KIB)
    for number in range(100):
        store.put(single(number, nbytes=10 * KIB), essential=True)
    assert store.statistics.nbytes > 600 * KIB
    disk.before_write = int
    disk.foreign_bytes = 400 * KIB
    store.maintain()
    assert disk.volume - disk.foreign_bytes - bytes_below(disk.folder) >= 256 * KIB
    disk.foreign_bytes = 900 * KIB
    assert store.put(single(200), essential=True) is StoreOutcome.FULL
    assert bytes_below(disk.folder) < KIB
    disk.foreign_bytes = 0
    assert store.put(single(201)) is StoreOutcome.STORED
    assert disk.lines == []
    store.close()


# --- what goes first ---


def test_what_is_used_stays(disk: Disk) -> None:
    store = disk.open(capacity=256 * KIB)
    store.put(single(0, nbytes=8 * KIB))
    for number in range(1, 100):
        disk.time += 60
        store.put(single(number, nbytes=8 * KIB))
        assert is_right(single(0, nbytes=8 * KIB), store.get(single(0).address)), number
    assert not store.contains(single(1).address)
    assert store.statistics.evicted_segments
    store.close()


def test_uses_of_long_ago_count_less(disk: Disk) -> None:
    store = disk.open(capacity=256 * KIB)
    store.put(single(0, nbytes=8 * KIB))
    for _ in range(20):
        store.get(single(0).address)
    disk.time += 20 * HALF_LIFE
    for number in range(1, 60):
        assert store.put(single(number, nbytes=8 * KIB)) is StoreOutcome.STORED
    assert not store.contains(single(0).address)
    store.close()


def test_a_prefix_outlives_the_prompts_that_go_on_from_it(disk: Disk) -> None:
    """Each prompt that is found uses the chunks that it shares."""
    store = disk.open(capacity=256 * KIB)
    shared = list(range(256))
    first = record_of(chain(IDENTITY, shared)[0], nbytes=8 * KIB)
    store.put(first)
    for number in range(80):
        disk.time += 60
        store.get(first.address)
        last = record_of(chain(IDENTITY, [*shared, number])[1], nbytes=8 * KIB)
        assert store.put(last) is StoreOutcome.STORED
    assert store.contains(first.address)
    store.close()


def test_what_is_worth_far_more_than_its_neighbours_survives_them(disk: Disk) -> None:
    store = disk.open(capacity=512 * KIB)
    for number in range(14):  # one segment
        store.put(single(number, nbytes=2 * KIB))
    for _ in range(30):
        store.get(single(0).address)
    disk.time += 3 * HALF_LIFE
    number = 1000
    while store.contains(single(1).address):
        number += 1
        assert store.put(single(number, nbytes=2 * KIB)) is StoreOutcome.STORED
    assert is_right(single(0, nbytes=2 * KIB), store.get(single(0).address))
    assert not any(store.contains(single(cold).address) for cold in range(1, 14))
    store.close()
    disk.lose_index()
    store = disk.open(capacity=512 * KIB)
    assert is_right(single(0, nbytes=2 * KIB), store.get(single(0).address))
    store.close()


def test_nothing_is_evicted_for_what_is_worth_less(disk: Disk) -> None:
    store = disk.open(capacity=128 * KIB)
    number = 0
    while store.put(single(number, nbytes=8 * KIB, seconds=100)) is StoreOutcome.STORED:
        number += 1
        if store.statistics.evicted_segments:
            break
    held = store.statistics.records
    assert store.put(single(1000, nbytes=8 * KIB, seconds=0.001)) is StoreOutcome.FULL
    assert store.statistics.records == held
    assert (
        store.put(single(1000, nbytes=8 * KIB, seconds=0.001), essential=True)
        is StoreOutcome.STORED
    )
    store.close()


def test_identities_at_rest_make_room_and_those_in_use_do_not(disk: Disk) -> None:
    other = disk.open(OTHER, capacity=256 * KIB)
    for number in range(20):
        other.put(single(number, nbytes=8 * KIB))
    held = other.statistics.records
    own = disk.open(capacity=256 * KIB)
    for number in range(40):
        own.put(single(number, nbytes=8 * KIB), essential=True)
    assert other.statistics.records == held
    assert all(other.contains(single(number).address) for number in range(20))
    other.close()
    disk.time += HALF_LIFE
    for number in range(100, 140):
        own.put(single(number, nbytes=8 * KIB))
    assert own.statistics.nbytes > 200 * KIB
    own.close()


# --- bytes a day ---


def test_the_days_budget_holds_for_all_but_the_essential(disk: Disk) -> None:
    store = disk.open(writes_per_day=100 * KIB)
    outcomes = [store.put(single(number, nbytes=30 * KIB)) for number in range(5)]
    assert outcomes == [StoreOutcome.STORED] * 3 + [StoreOutcome.DAY] * 2
    assert store.put(single(10, nbytes=30 * KIB), essential=True) is StoreOutcome.STORED
    store.close()
    store = disk.open(writes_per_day=100 * KIB)
    assert store.put(single(11, nbytes=KIB)) is StoreOutcome.DAY
    disk.time += DAY
    assert store.put(single(11, nbytes=KIB)) is StoreOutcome.STORED
    assert store.statistics.written_today < 3 * KIB
    store.close()


@pytest.mark.parametrize("back", [1, DAY, 30 * DAY])
def test_a_clock_that_goes_back_gives_no_new_budget(disk: Disk, back: int) -> None:
    store = disk.open(writes_per_day=100 * KIB)
    store.put(single(0, nbytes=99 * KIB))
    disk.time -= back
    assert store.put(single(1, nbytes=10 * KIB)) is StoreOutcome.DAY
    assert store.put(single(2), essential=True) is StoreOutcome.STORED
    disk.time += 2 * DAY
    assert store.put(single(1, nbytes=10 * KIB)) is StoreOutcome.STORED
    store.close()


@given(st.binary(max_size=40))
@example(b"longer than an account" * 5)
@settings(max_examples=30)
def test_a_damaged_account_spends_the_day_and_no_more(noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder) / "kv")
        store = disk.open(writes_per_day=100 * KIB)
        store.put(single(0))
        (disk.folder / "account").write_bytes(noise)
        expected = StoreOutcome.DAY if noise else StoreOutcome.STORED
        assert store.put(single(1)) is expected
        store.put(single(2), essential=True)
        disk.time += DAY
        assert store.put(single(3)) is StoreOutcome.STORED
        store.close()
        assert disk.lines == []


def test_the_account_says_what_was_written(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1, nbytes=10 * KIB))
    content = (disk.folder / "account").read_bytes()
    assert struct.unpack_from("<Q", content, 16)[0] == store.statistics.written_today
    assert 10 * KIB < store.statistics.written_today < 11 * KIB
    store.close()


def fill(store: DiskStore, records: list[Record]) -> None:
    """Put records until the folder is full to the last bytes that a record of one byte needs."""
    for record in records:
        store.put(record)
    for number in itertools.count(5000):
        if store.put(single(number, nbytes=1, seconds=1e-9)) is StoreOutcome.FULL:
            return


def test_a_full_folder_gives_room_to_what_is_worth_more(disk: Disk) -> None:
    capacity = 64 * KIB
    watch(disk, capacity)
    first, second = disk.open(capacity=capacity), disk.open(OTHER, capacity=capacity)
    cheap = [single(number, nbytes=KIB, seconds=1.0) for number in range(100)]
    fill(first, cheap)
    dear = [single(1000 + number, nbytes=KIB, seconds=5.0) for number in range(100)]
    assert second.put(dear[0]) is StoreOutcome.FULL
    for _ in range(20):
        first.maintain()
        for record in dear[:60]:
            second.put(record)
    assert first.statistics.records == 0
    assert second.statistics.records > 40
    assert disk.lines == []


def test_a_full_folder_keeps_what_is_worth_more(disk: Disk) -> None:
    capacity = 64 * KIB
    first, second = disk.open(capacity=capacity), disk.open(OTHER, capacity=capacity)
    fill(first, [single(number, nbytes=KIB, seconds=5.0) for number in range(100)])
    kept = first.statistics.records
    for number in range(100):
        assert second.put(single(1000 + number, nbytes=KIB, seconds=1.0)) is StoreOutcome.FULL
        first.maintain()
    assert first.statistics.records == kept


def test_essential_records_of_two_models_share_the_folder(disk: Disk) -> None:
    capacity = 64 * KIB
    watch(disk, capacity)
    stores = [disk.open(capacity=capacity), disk.open(OTHER, capacity=capacity)]
    for number in range(100):
        stores[0].put(single(number, nbytes=KIB), essential=True)
    for number in range(200):
        disk.time += 10.0
        for store, start in zip(stores, (1000, 2000), strict=True):
            store.put(single(start + number, nbytes=KIB), essential=True)
            store.maintain()
    shares = [store.statistics.records for store in stores]
    assert min(shares) >= 15, shares


def test_a_record_as_large_as_the_folder_is_stored_after_room_was_made(disk: Disk) -> None:
    capacity = 64 * KIB
    first, second = disk.open(capacity=capacity), disk.open(OTHER, capacity=capacity)
    fill(first, [single(number, nbytes=KIB, seconds=1.0) for number in range(100)])
    assert second.put(single(1000, nbytes=KIB, seconds=5.0)) is StoreOutcome.FULL
    first.maintain()
    large = single(2000, nbytes=62 * KIB)
    assert first.put(large, essential=True) is StoreOutcome.STORED
    assert is_right(large, first.get(large.address))


def test_a_need_of_room_is_forgotten(disk: Disk) -> None:
    capacity = 64 * KIB
    first, second = disk.open(capacity=capacity), disk.open(OTHER, capacity=capacity)
    fill(first, [single(number, nbytes=KIB, seconds=1.0) for number in range(100)])
    kept = first.statistics.records
    assert second.put(single(1000, nbytes=KIB, seconds=5.0)) is StoreOutcome.FULL
    disk.time += 2 * NEED_SECONDS
    first.maintain()
    assert first.statistics.records == kept
    assert second.put(single(1000, nbytes=KIB, seconds=5.0)) is StoreOutcome.FULL
    second.maintain()  # hears no need of its own
    first.maintain()
    assert first.statistics.records < kept
    assert second.put(single(1000, nbytes=KIB, seconds=5.0)) is StoreOutcome.STORED
