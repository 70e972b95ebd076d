"""The folder of the KV on disk, looked at from outside: listed, verified, cleared."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from mlx_worker.kv_disk.files.keys import chain
from mlx_worker.kv_disk.files.names import MAX_NAMES, read_models, record_model
from mlx_worker.kv_disk.resting import clear, list_stored, verify
from tests.kv_disk.disk_harness import IDENTITY, OTHER, Disk, bytes_below, record_of, single

if TYPE_CHECKING:
    from pathlib import Path

ID, OTHER_ID = IDENTITY.digest.hex(), OTHER.digest.hex()


def filled(disk: Disk, count: int = 5, *, name: str = "nano") -> Disk:
    """Return a disk at rest with some records of a model."""
    store = disk.open()
    for number in range(count):
        store.put(single(number))
    record_model(disk.folder, IDENTITY.digest, name)
    store.close()
    return disk


def damage(segment: Path, offset: int) -> None:
    """Flip a bit and leave size and times as they are, as a failing disk does."""
    status = segment.stat()
    content = bytearray(segment.read_bytes())
    content[offset] ^= 1
    segment.write_bytes(content)
    os.utime(segment, ns=(status.st_atime_ns, status.st_mtime_ns))


def names_of(disk: Disk) -> tuple[str, ...]:
    folder = os.open(disk.folder / ID, os.O_RDONLY)
    try:
        return read_models(folder)
    finally:
        os.close(folder)


# --- names ------------------------------------------------------------------------------


def test_names_of_one_identity_are_kept_the_latest_first(disk: Disk) -> None:
    filled(disk, name="old")
    record_model(disk.folder, IDENTITY.digest, "new")
    assert names_of(disk) == ("new", "old")
    record_model(disk.folder, IDENTITY.digest, "old")
    assert names_of(disk) == ("old", "new")
    for number in range(2 * MAX_NAMES):
        record_model(disk.folder, IDENTITY.digest, f"model-{number}")
    assert len(names_of(disk)) == MAX_NAMES


def test_names_file_is_private_and_its_content_is_not_believed(disk: Disk) -> None:
    filled(disk)
    file = disk.folder / ID / "model"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_bytes(b"\x1b[31mred\xff\n" + b"x" * 1_000_000)
    assert [len(name) for name in names_of(disk)] == [8, 256]
    assert "\x1b" not in names_of(disk)[0]
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert names_of(disk) == ()


def test_names_of_no_folder_are_no_error(tmp_path: Path) -> None:
    record_model(tmp_path / "nowhere", IDENTITY.digest, "nano")
    assert not (tmp_path / "nowhere").exists()


# --- listing ----------------------------------------------------------------------------


def test_list_stored_counts_records_tokens_bytes_and_last_use(disk: Disk) -> None:
    filled(disk)
    with_chain = disk.open(OTHER)
    for link in chain(OTHER, range(600)):
        with_chain.put(record_of(link))
    disk.time += 100
    with_chain.get(record_of(chain(OTHER, range(600))[0]).address)
    with_chain.close()
    other, stored = list_stored(disk.folder)
    assert (stored.identity, stored.models, stored.records, stored.tokens) == (ID, ("nano",), 5, 15)
    assert (other.identity, other.models, other.records, other.tokens) == (OTHER_ID, (), 3, 600)
    assert other.last_used == disk.time
    assert stored.nbytes == sum(path.stat().st_size for path in (disk.folder / ID).glob("*.seg"))
    assert stored.is_meant("nano")
    assert stored.is_meant(ID[:8])
    assert not stored.is_meant("nan")


def test_list_stored_of_an_open_folder_changes_nothing(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1))
    disk.lose_index()
    before = sorted((disk.folder / ID).iterdir())
    assert [stored.records for stored in list_stored(disk.folder)] == [1]
    assert sorted((disk.folder / ID).iterdir()) == before
    store.put(single(2))
    assert [stored.records for stored in list_stored(disk.folder)] == [2]
    store.close()


def test_list_stored_without_a_folder_is_empty(tmp_path: Path) -> None:
    assert list_stored(tmp_path / "nowhere") == []


# --- verifying --------------------------------------------------------------------------


def test_verify_deletes_what_is_not_right(disk: Disk) -> None:
    filled(disk)
    (segment,) = disk.segments
    damage(segment, segment.stat().st_size - 1)
    found = verify(disk.folder, ID)
    assert (found.right, found.wrong, found.deleted, found.models) == (4, 1, 1, ("nano",))
    found = verify(disk.folder, ID)
    assert (found.right, found.wrong, found.deleted) == (4, 0, 0)
    store = disk.open()
    assert [store.contains(single(number).address) for number in range(5)] == [True] * 4 + [False]
    store.close()


def test_verify_keeps_the_records_behind_a_damaged_header(disk: Disk) -> None:
    filled(disk)
    (segment,) = disk.segments
    damage(segment, segment.stat().st_size // 5 + 20)
    found = verify(disk.folder, ID)
    assert (found.right, found.wrong, found.deleted) == (4, 1, 1)
    store = disk.open()
    assert sum(store.get(single(number).address) is not None for number in range(5)) == 4
    store.close()


def test_verify_without_an_index_counts_bytes_behind_a_damaged_header(disk: Disk) -> None:
    filled(disk)
    (segment,) = disk.segments
    size = segment.stat().st_size
    damage(segment, size // 5 + 20)
    disk.lose_index()
    found = verify(disk.folder, ID)
    assert (found.right, found.wrong, found.unreadable_bytes) == (1, 0, size // 5 * 4)


def test_verify_of_an_open_identity_deletes_nothing(disk: Disk) -> None:
    filled(disk)
    (segment,) = disk.segments
    store = disk.open()
    damage(segment, segment.stat().st_size - 1)
    found = verify(disk.folder, ID)
    assert (found.right, found.wrong, found.deleted) == (4, 1, 0)
    assert store.get(single(4).address) is None
    assert verify(disk.folder, ID).wrong == 0, "its process has deleted the record"
    assert not disk.lines
    store.close()


# --- clearing ---------------------------------------------------------------------------


def test_clear_leaves_no_byte_of_an_identity_and_all_of_another(disk: Disk) -> None:
    filled(disk)
    other = disk.open(OTHER)
    other.put(single(1))
    assert clear(disk.folder, ID)
    assert bytes_below(disk.folder / ID) == 0
    assert [stored.identity for stored in list_stored(disk.folder)] == [OTHER_ID]
    other.close()
    store = disk.open()
    assert store.statistics.records == 0
    store.close()


def test_clear_of_an_open_identity_is_refused(disk: Disk) -> None:
    filled(disk)
    store = disk.open()
    assert not clear(disk.folder, ID)
    assert store.contains(single(0).address)
    store.close()
    assert clear(disk.folder, ID)
    assert clear(disk.folder, ID), "there is nothing left"
