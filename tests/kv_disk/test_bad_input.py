"""A folder that is hostile or broken: the right bytes or none, no exception, one clear line."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import shutil
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mlx_worker.kv_disk.account import DAY
from mlx_worker.kv_disk.availability import RETRY_SECONDS
from mlx_worker.kv_disk.files.index import Index, IndexEntry, SegmentState, new_entry
from mlx_worker.kv_disk.files.keys import chain
from mlx_worker.kv_disk.files.payload import ArrayBytes, BadRecord, Dtype, LayerBytes, LayerFamily
from mlx_worker.kv_disk.files.records import FORMAT, HEADER_BYTES, MARK_OFFSET, Kind, encode
from mlx_worker.kv_disk.files.saved_index import dump, parse, parse_segments
from mlx_worker.kv_disk.reports import StoreOutcome
from tests.kv_disk.disk_harness import IDENTITY, Disk, bytes_below, is_right, record_of, single

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEPT = [single(number) for number in range(4)]
OWN = IDENTITY.digest.hex()
NAMES = ["format", "lock", "account", "lock of the identity", "index", "index.new", "segment"]
ESSENTIAL = {"format", "account", "lock of the identity"}
"""Names without which the tier is off: the tier cannot do without these files."""


def place_of(disk: Disk, name: str) -> Path:
    own = disk.folder / OWN
    return {
        "lock of the identity": own / "lock",
        "index": own / "index",
        "index.new": own / "index.new",
        "segment": own / "00000001.seg",
    }.get(name, disk.folder / name)


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def make_endless_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_full_folder(path: Path) -> None:
    (path / "inside").mkdir(parents=True)


def make_second_name(path: Path) -> None:
    other = path.parents[2] / "elsewhere"
    other.write_text("another file")
    other.chmod(0o600)
    os.link(other, path)


def make_public(path: Path) -> None:
    path.write_text("of any user")
    path.chmod(0o666)


MAKERS = [make_fifo, make_endless_link, make_full_folder, make_second_name, make_public]


def filled(disk: Disk) -> None:
    store = disk.open()
    assert {store.put(record) for record in KEPT} == {StoreOutcome.STORED}
    store.close()


def replaced(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink(missing_ok=True)
    make(path)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_open", [False, True])
def test_what_has_the_name_of_a_file_is_not_used(
    disk: Disk, name: str, make: Callable[[Path], None], is_open: bool
) -> None:
    filled(disk)
    store = disk.open() if is_open else None
    path = place_of(disk, name)
    replaced(path, make)
    before = os.lstat(path)
    if store is None:
        store = disk.open()
    for _ in range(2):
        for record in KEPT:
            found = store.get(record.address)
            assert found is None or is_right(record, found)
        outcome = store.put(single(9))
        store.maintain()
        disk.monotonic += RETRY_SECONDS
    assert is_right(single(9), store.get(single(9).address)) == (
        outcome in {StoreOutcome.STORED, StoreOutcome.KNOWN}
    )
    if not is_open:
        assert (outcome is StoreOutcome.OFF) == (name in ESSENTIAL)
    store.verify()
    store.close()
    assert len([line for line in disk.lines if "on again" not in line]) <= 1, disk.lines
    assert not (name in ESSENTIAL and not is_open) or path.name in disk.lines[0]
    if name in ESSENTIAL and not is_open:
        assert os.path.samestat(os.lstat(path), before)


def test_a_folder_whose_first_start_was_cut_short_is_used(disk: Disk) -> None:
    disk.folder.mkdir(mode=0o700)
    (disk.folder / "format").touch(mode=0o600)
    filled(disk)
    assert disk.lines == []


def test_a_folder_with_files_and_an_empty_format_is_left_alone(disk: Disk) -> None:
    filled(disk)
    (disk.folder / "format").write_bytes(b"")
    store = disk.open()
    assert store.put(single(9)) is StoreOutcome.OFF
    store.close()
    assert len(disk.lines) == 1
    assert "left alone" in disk.lines[0]


# --- records that only a program that knows the format can make ---


def forged(content: bytes, form: str, place: int, *values: object) -> bytes:
    """A record with other fields in the header, and the right checksum of the header."""
    header = bytearray(content[:HEADER_BYTES])
    struct.pack_into(form, header, place, *values)
    size = MARK_OFFSET - 8
    header[size:MARK_OFFSET] = hashlib.blake2b(header[:size], digest_size=8).digest()
    return bytes(header) + content[HEADER_BYTES:]


SIZES = MARK_OFFSET - 8 - 16 - 8


@pytest.mark.parametrize(
    ("form", "place", "values"),
    [
        ("<H", 8, (FORMAT + 1,)),
        ("<B", 10, (77,)),
        ("<II", SIZES, (0, 0)),
        ("<II", SIZES, (0xFFFFFFFF, 0xFFFFFFFF)),
        ("<II", SIZES, (1 << 20, 1 << 30)),
        ("<II", SIZES, (0, 64)),
        ("<II", SIZES - 12, (7, 7)),
    ],
)
@pytest.mark.parametrize("has_index", [True, False])
def test_a_forged_header_hides_what_lies_behind_and_no_more(
    disk: Disk, form: str, place: int, values: tuple[int, ...], has_index: bool
) -> None:
    filled(disk)
    path = disk.segments[0]
    content, times = path.read_bytes(), path.stat()
    start = len(bytes(encode(IDENTITY.digest, KEPT[0])))
    path.write_bytes(content[:start] + forged(content[start:], form, place, *values))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    if not has_index:
        disk.lose_index()
    store = disk.open()
    found = [store.get(record.address) for record in KEPT]
    assert is_right(KEPT[0], found[0])
    assert found[1] is None
    assert all(
        found is None or is_right(record, found)
        for record, found in zip(KEPT[2:], found[2:], strict=True)
    )
    assert store.put(KEPT[1]) is StoreOutcome.STORED
    assert is_right(KEPT[1], store.get(KEPT[1].address))
    store.close()
    store = disk.open()
    assert is_right(KEPT[1], store.get(KEPT[1].address))
    store.close()
    assert disk.lines == []


ENTRY = replace(new_entry(single(1), 500, 0.0), segment=1)


@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, uses=math.nan),
        replace(ENTRY, uses=math.inf),
        replace(ENTRY, uses=-1.0),
        replace(ENTRY, used_at=math.nan),
        replace(ENTRY, seconds=math.nan),
        replace(ENTRY, length=HEADER_BYTES),
        replace(ENTRY, length=1 << 40),
        replace(ENTRY, offset=501),
        replace(ENTRY, stop=0),
        replace(ENTRY, stop=0xFFFFFFFF),
    ],
)
def test_a_saved_index_of_impossible_numbers_is_not_believed(entry: IndexEntry) -> None:
    index = Index()
    index.add(entry)
    content = b"".join(dump(IDENTITY.digest, index, {1: SegmentState(1000, 0)}, 0.0))
    with pytest.raises(BadRecord):
        parse(content, IDENTITY.digest)


@pytest.mark.parametrize("worth", [math.nan, math.inf, -1.0])
def test_a_saved_segment_of_impossible_worth_is_not_believed(worth: float) -> None:
    state = SegmentState(1000, 0, worth=worth)
    content = b"".join(dump(IDENTITY.digest, Index(), {1: state}, 0.0))
    with pytest.raises(BadRecord):
        parse_segments(content, IDENTITY.digest)


def test_a_segment_with_the_highest_number_leaves_room_for_others(disk: Disk) -> None:
    filled(disk)
    (disk.folder / OWN / "99999999.seg").touch(mode=0o600)
    disk.lose_index()
    for _ in range(2):
        store = disk.open(segment_bytes=300)
        for number in range(10, 14):
            assert store.put(single(number)) in {StoreOutcome.STORED, StoreOutcome.KNOWN}
            assert is_right(single(number), store.get(single(number).address))
        store.close()
    assert {len(path.name) for path in disk.segments} == {len("00000001.seg")}


@pytest.mark.parametrize(
    "record",
    [
        replace(single(1), seconds=math.nan),
        replace(single(1), seconds=math.inf),
        replace(single(1), stop=1 << 40),
        replace(single(1), payload=(LayerBytes(LayerFamily.FULL, (1 << 63,)),)),
        replace(
            single(1),
            payload=(LayerBytes(LayerFamily.FULL, (), (ArrayBytes(Dtype.INT8, (9,), b""),)),),
        ),
    ],
)
def test_what_no_file_can_hold_is_refused(disk: Disk, record: object) -> None:
    store = disk.open()
    assert store.put(record) is StoreOutcome.REFUSED  # type: ignore[arg-type]
    assert store.put(single(2)) is StoreOutcome.STORED
    store.close()
    assert disk.lines == []


# --- a disk that fails ---


def test_a_place_that_cannot_be_read_costs_one_record(disk: Disk) -> None:
    filled(disk)
    store = disk.open()
    size = len(bytes(encode(IDENTITY.digest, KEPT[0])))
    disk.unreadable = range(size + 200, size + 201)
    found = [store.get(record.address) for record in KEPT]
    assert [is_right(*pair) for pair in zip(KEPT, found, strict=True)] == [True, False, True, True]
    assert store.statistics.corrupt == 1
    assert store.put(KEPT[1]) is StoreOutcome.STORED
    assert is_right(KEPT[1], store.get(KEPT[1].address))
    store.close()
    disk.lose_index()
    store = disk.open()
    assert all(is_right(record, store.get(record.address)) for record in KEPT)
    store.close()
    assert disk.lines == []


def test_a_header_that_cannot_be_read_costs_the_rest_of_its_segment(disk: Disk) -> None:
    filled(disk)
    disk.lose_index()
    size = len(bytes(encode(IDENTITY.digest, KEPT[0])))
    disk.unreadable = range(size, size + 1)
    store = disk.open()
    assert [store.contains(record.address) for record in KEPT] == [True, False, False, False]
    assert store.put(KEPT[1]) is StoreOutcome.STORED
    store.close()
    assert disk.lines == []


@pytest.mark.parametrize("part", [0, 1, 100, 160, 200])
def test_a_volume_that_fills_in_the_middle_of_a_record_keeps_the_others(
    disk: Disk, part: int
) -> None:
    filled(disk)
    store = disk.open()
    disk.error, disk.torn_bytes = errno.ENOSPC, part
    assert store.put(single(9)) is StoreOutcome.OFF
    twin = Disk(disk.folder.with_name("after a crash"))
    shutil.copytree(disk.folder, twin.folder, symlinks=True)
    twin.folder.chmod(0o700)
    for place in twin.folder.glob("?" * 32):
        place.chmod(0o700)
    twin.lose_index()
    for other in (disk, twin):
        used = store if other is disk else twin.open()
        assert all(is_right(record, used.get(record.address)) for record in KEPT)
        assert used.get(single(9).address) is None
        used.close()
    assert len(disk.lines) == 1
    assert "No space left" in disk.lines[0]


def test_a_volume_that_vanishes_in_the_middle_of_a_write_is_found_again(disk: Disk) -> None:
    filled(disk)
    store = disk.open()
    away = disk.folder.with_name("away")
    disk.before_write = lambda _: disk.folder.rename(away)
    store.put(single(8))
    disk.before_write = int
    assert [store.put(single(9)), store.put(single(9))] == [StoreOutcome.OFF] * 2
    assert len(disk.lines) == 1
    away.rename(disk.folder)
    disk.monotonic += RETRY_SECONDS
    store.maintain()
    assert store.put(single(9)) is StoreOutcome.STORED
    for record in [*KEPT, single(8), single(9)]:
        assert is_right(record, store.get(record.address))
    store.close()
    assert len(disk.lines) == 2


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENXIO, errno.EIO, errno.ESTALE])
def test_a_device_that_is_gone_turns_the_tier_off_with_one_line(disk: Disk, code: int) -> None:
    filled(disk)
    store = disk.open()
    disk.error = code
    for number in range(10, 14):
        assert store.put(single(number)) is StoreOutcome.OFF
        assert store.get(KEPT[0].address) is None
    store.close()
    assert len(disk.lines) == 1


# --- time and other processes ---


@pytest.mark.parametrize("step", [-4000 * DAY, -DAY, 4000 * DAY])
def test_a_clock_that_jumps_changes_neither_bytes_nor_bounds(disk: Disk, step: int) -> None:
    capacity = 64 * 1024
    store = disk.open(capacity=capacity)
    for number in range(20):
        store.put(single(number, nbytes=2000))
    disk.time += step
    for number in range(20, 40):
        assert store.put(single(number, nbytes=2000), essential=True) is StoreOutcome.STORED
        assert bytes_below(disk.folder) <= capacity
    store.close()
    store = disk.open(capacity=capacity)
    records = [single(number, nbytes=2000) for number in range(40)]
    found = [store.get(record.address) for record in records]
    assert all(is_right(*pair) for pair in zip(records, found, strict=True) if pair[1])
    assert is_right(records[-1], found[-1])
    assert sum(payload is not None for payload in found) > 20
    store.close()
    assert disk.lines == []


@pytest.mark.full  # waits as long as a writer waits
def test_a_writer_that_is_stopped_holds_no_other_up_for_long(disk: Disk) -> None:
    filled(disk)
    store = disk.open()
    with (disk.folder / "account").open() as account:
        fcntl.flock(account, fcntl.LOCK_EX)
        assert store.put(single(8)) is StoreOutcome.BUSY
        assert is_right(KEPT[0], store.get(KEPT[0].address))
    assert store.put(single(8)) is StoreOutcome.STORED
    store.close()
    assert disk.lines == []


def test_a_state_is_not_read_for_a_delta_with_its_key(disk: Disk) -> None:
    (link,) = chain(IDENTITY, [1, 2, 3])
    store = disk.open()
    store.put(record_of(link, kind=Kind.STATE))
    assert store.get(record_of(link).address) is None
    store.close()
