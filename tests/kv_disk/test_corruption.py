"""Damage of any kind: never a wrong byte, never an exception, never a size over the bound."""

from __future__ import annotations

import os
import random
import shutil
import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlx_worker.kv_disk.files.keys import chain
from mlx_worker.kv_disk.files.records import FORMAT, HEADER_BYTES, Address, Kind, encode
from mlx_worker.kv_disk.reports import StoreOutcome
from tests.kv_disk.disk_harness import (
    IDENTITY,
    OTHER,
    Disk,
    bytes_below,
    is_right,
    record_of,
    single,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.kv_disk.store import DiskStore

CAPACITY = 64 * 1024
LINKS = chain(IDENTITY, list(range(1000)))
RECORDS = [
    *(record_of(link, nbytes=300) for link in LINKS),
    record_of(LINKS[-1], kind=Kind.STATE, nbytes=500),
    record_of(LINKS[-1], kind=Kind.WINDOW, nbytes=500),
]


@pytest.fixture
def sound(tmp_path: Path) -> Iterator[Disk]:
    """A folder with several segments, a saved index and the folder of another identity.

    In memory where the system has such a volume: a real one flushes each file that is replaced.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield made_sound(Disk(Path(folder) / "kv"))


def made_sound(disk: Disk) -> Disk:
    for identity in (OTHER, IDENTITY):
        store = disk.open(identity, capacity=CAPACITY, segment_bytes=1000)
        assert {store.put(record) for record in RECORDS} == {StoreOutcome.STORED}
        store.close()
    assert len(disk.segments) > 4
    return disk


def flip(path: Path, chooser: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        for _ in range(chooser.choice([1, 1, 1, 8])):
            content[chooser.randrange(len(content))] ^= 1 << chooser.randrange(8)
        path.write_bytes(content)


def truncate(path: Path, chooser: random.Random) -> None:
    os.truncate(path, chooser.randrange(path.stat().st_size + 1))


def tear(path: Path, chooser: random.Random) -> None:
    """Blocks that never reached the disk."""
    content = bytearray(path.read_bytes())
    start = chooser.randrange(len(content) + 1)
    stop = min(len(content), start + chooser.randrange(1, 600))
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


def replace_with_noise(path: Path, chooser: random.Random) -> None:
    path.write_bytes(chooser.randbytes(chooser.randrange(2000)))


def put_under_another_name(path: Path, chooser: random.Random) -> None:
    """A torn rename, or a file of the other identity, if another file is left."""
    files = sorted(file for file in path.parents[1].rglob("*") if file.is_file())
    if others := [file for file in files if file != path]:
        shutil.copyfile(chooser.choice(others), path)


def repeat_a_part(path: Path, chooser: random.Random) -> None:
    content = path.read_bytes()
    place = chooser.randrange(len(content) + 1)
    path.write_bytes(content[:place] + content[: chooser.randrange(len(content) + 1)])


def claim_the_future(path: Path, chooser: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if len(content) > HEADER_BYTES:
        struct.pack_into("<H", content, 8, FORMAT + chooser.randrange(1, 9))
        path.write_bytes(content)


def remove(path: Path, chooser: random.Random) -> None:
    path.unlink()


DAMAGES = (
    flip,
    truncate,
    tear,
    replace_with_noise,
    put_under_another_name,
    repeat_a_part,
    claim_the_future,
    remove,
)


def use(disk: Disk, store: DiskStore, outcomes: Counter[str]) -> None:
    """Read everything twice, store what is missing, and read everything again."""
    for record in [*RECORDS, *RECORDS]:
        found = store.get(record.address, apart=True)
        assert found is None or is_right(record, found)
        outcomes["missing" if found is None else "right"] += 1
    for record in [*RECORDS, single(5)]:
        outcomes[f"put: {store.put(record, essential=True).value}"] += 1
    assert bytes_below(disk.folder) <= CAPACITY
    for record in RECORDS:
        found = store.get(record.address, apart=True)
        assert found is None or is_right(record, found)
    store.maintain()
    store.verify()


Files = dict[str, tuple[bytes, int]]
"""The content and the time of change of each file."""


def files_of(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def restore(folder: Path, files: Files) -> None:
    """Make a folder what it was, by as few changes as that takes."""
    for path in folder.glob("*/*"):
        if str(path.relative_to(folder)) not in files:
            path.unlink()
    for name, (content, changed) in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            path.chmod(0o600)
        set_time(path, changed)


def set_time(path: Path, changed: int) -> None:
    os.utime(path, ns=(changed, changed))


def damage_once(folder: Path, files: Files, seed: int, outcomes: Counter[str]) -> list[str]:
    """Damage the files, before the start or while the store is open, and use the store."""
    chooser = random.Random(seed)
    disk = Disk(folder)
    disk.before_write = lambda size: bounded(folder, size)
    restore(folder, files)
    own = folder / IDENTITY.digest.hex()
    is_open = chooser.random() < 0.4
    if chooser.random() < 0.5:
        disk.lose_index()
    store = disk.open(capacity=CAPACITY, segment_bytes=1000) if is_open else None
    for _ in range(chooser.choice([1, 1, 2, 5])):
        paths = sorted(
            [*own.glob("*.seg"), *own.glob("index"), *own.glob("lock"), *folder.glob("account")]
        )
        damage = chooser.choice(DAMAGES)
        path = chooser.choice(paths)
        damage(path, chooser)
        if path.exists() and chooser.random() < 0.5:  # the saved index is believed then
            set_time(path, files.get(str(path.relative_to(folder)), (b"", 0))[1])
        outcomes[damage.__name__] += 1
    if store is None:
        store = disk.open(capacity=CAPACITY, segment_bytes=1000)
    use(disk, store, outcomes)
    store.close()
    store = disk.open(capacity=CAPACITY, segment_bytes=1000)
    use(disk, store, outcomes)
    store.close()
    return disk.lines


def bounded(folder: Path, size: int) -> None:
    assert bytes_below(folder) + size <= CAPACITY


@pytest.mark.parametrize(
    "cases",
    [
        60,
        pytest.param(500, marks=pytest.mark.full),
        pytest.param(10_000, marks=pytest.mark.soak),
    ],
)
@pytest.mark.timeout(1800)
def test_damage_never_gives_a_wrong_byte_nor_an_error(sound: Disk, cases: int) -> None:
    outcomes: Counter[str] = Counter()
    files = files_of(sound.folder)
    for seed in range(cases):
        assert damage_once(sound.folder, files, seed, outcomes) == []
    print(dict(sorted(outcomes.items())))  # noqa: T201  (the counts are part of the result)
    assert outcomes["right"]
    assert outcomes["missing"]
    assert set(outcomes) > {damage.__name__ for damage in DAMAGES}


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.full)])
def test_a_write_cut_at_any_byte_leaves_what_was_there_before(disk: Disk, step: int) -> None:
    before, cut = single(1), single(2)
    store = disk.open()
    store.put(before)
    whole = len(encode(IDENTITY.digest, cut))
    store.close()
    disk.lose_index()
    start = disk.segments[0].stat().st_size
    store = disk.open()
    store.put(cut)
    store.close()
    content = disk.segments[0].read_bytes()
    assert len(content) == start + whole
    for end in range(start, start + whole, step):
        disk.lose_index()
        for segment in disk.segments:
            segment.unlink()
        path = next(disk.folder.glob("?" * 32)) / "00000001.seg"
        path.write_bytes(content[:end])
        path.chmod(0o600)
        store = disk.open()
        assert is_right(before, store.get(before.address)), end
        assert store.get(cut.address) is None
        assert store.put(cut) is StoreOutcome.STORED
        store.close()
        store = disk.open()
        assert is_right(before, store.get(before.address))
        assert is_right(cut, store.get(cut.address))
        store.close()
    assert disk.lines == []


def test_a_saved_index_cut_at_any_byte_is_not_believed(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1))
    store.close()
    path = next(disk.folder.glob("*/index"))
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        store = disk.open()
        assert is_right(single(1), store.get(single(1).address))
        store.close()


def test_weights_of_another_model_under_the_same_name_find_nothing(sound: Disk) -> None:
    """The segments of one identity, moved into the folder of another."""
    own, other = (sound.folder / identity.digest.hex() for identity in (IDENTITY, OTHER))
    shutil.rmtree(own)
    other.rename(own)
    store = sound.open(capacity=CAPACITY)
    assert all(store.get(record.address) is None for record in RECORDS)
    assert store.put(single(1)) is StoreOutcome.STORED
    assert store.get(Address(Kind.DELTA, OTHER.seed)) is None
    store.close()
