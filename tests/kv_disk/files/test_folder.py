"""Which folders are used, and which are left alone with one line."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.account import Account
from mlx_worker.kv_disk.files.folder import FORMAT_NAME, lock, open_folder, open_root
from mlx_worker.kv_disk.reports import StoreOutcome
from tests.kv_disk.disk_harness import IDENTITY, OTHER, Disk, is_right, single

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_worker.kv_disk.store import DiskStore


def test_folders_and_files_are_private(disk: Disk) -> None:
    store = disk.open()
    store.put(single(1))
    store.close()
    paths = [disk.folder, *disk.folder.rglob("*")]
    assert {stat.S_IMODE(path.lstat().st_mode) for path in paths if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.lstat().st_mode) for path in paths if path.is_file()} == {0o600}


def link_the_folder(disk: Disk) -> None:
    (disk.folder.parent / "elsewhere").mkdir(mode=0o700)
    disk.folder.symlink_to(disk.folder.parent / "elsewhere")


def put_a_fifo_in_its_place(disk: Disk) -> None:
    os.mkfifo(disk.folder)


def let_others_write(disk: Disk) -> None:
    disk.folder.mkdir()
    disk.folder.chmod(0o777)


def fill_with_something_else(disk: Disk) -> None:
    disk.folder.mkdir(mode=0o700)
    (disk.folder / "thesis.txt").write_text("a life's work")


def name_another_version(disk: Disk) -> None:
    disk.folder.mkdir(mode=0o700)
    (disk.folder / FORMAT_NAME).write_text("mlx-worker kv 2\n")


def make_the_format_a_fifo(disk: Disk) -> None:
    disk.folder.mkdir(mode=0o700)
    os.mkfifo(disk.folder / FORMAT_NAME)


def link_the_folder_of_the_identity(disk: Disk) -> None:
    disk.open().close()
    own = disk.folder / IDENTITY.digest.hex()
    own.rename(disk.folder.parent / "elsewhere")
    own.symlink_to(disk.folder.parent / "elsewhere")


def let_others_write_to_the_account(disk: Disk) -> None:
    store = disk.open()
    store.put(single(9))
    store.delete(single(9).address)
    store.close()
    (disk.folder / "account").chmod(0o666)


def state_below(folder: Path) -> list[tuple[Path, int]]:
    """Every file and folder, and who may use it."""
    return sorted((path, path.lstat().st_mode) for path in folder.rglob("*"))


REFUSED = [
    (link_the_folder, "is no folder"),
    (put_a_fifo_in_its_place, "is no folder"),
    (let_others_write, "written by other users"),
    (fill_with_something_else, "left alone"),
    (name_another_version, "of another version ('mlx-worker kv 2'): left alone"),
    (make_the_format_a_fifo, "is no private regular file"),
    (link_the_folder_of_the_identity, "is no folder"),
    (let_others_write_to_the_account, "is no private regular file"),
]


@pytest.mark.parametrize(("prepare", "line"), REFUSED)
def test_a_folder_that_cannot_be_trusted_is_left_alone(
    disk: Disk, prepare: Callable[[Disk], None], line: str
) -> None:
    prepare(disk)
    before = state_below(disk.folder.parent)
    store = disk.open()
    assert store.put(single(1)) is StoreOutcome.OFF
    assert store.put(single(2)) is StoreOutcome.OFF
    assert store.get(single(1).address) is None
    store.maintain()
    store.close()
    assert len(disk.lines) == 1
    assert line in disk.lines[0]
    assert state_below(disk.folder.parent) == before


def test_a_folder_that_others_can_read_is_made_private(disk: Disk) -> None:
    disk.folder.mkdir(mode=0o755)
    disk.open().close()
    assert stat.S_IMODE(disk.folder.stat().st_mode) == 0o700


def test_two_nodes_do_not_share_a_folder(tmp_path: Path) -> None:
    one, other = open_root(tmp_path / "kv"), open_root(tmp_path / "kv")
    held = lock(one, "node")
    with pytest.raises(StorageError, match="used by another node"):
        lock(other, "node")
    os.close(held)
    os.close(lock(other, "node"))
    os.close(one)
    os.close(other)


def test_two_processes_do_not_share_an_identity(disk: Disk) -> None:
    first = disk.open()
    second = disk.open()
    assert second.put(single(1)) is StoreOutcome.OFF
    assert "used by another process" in disk.lines[0]
    first.put(single(1))
    first.close()
    disk.monotonic += 60
    second.maintain()
    assert is_right(single(1), second.get(single(1).address))
    second.close()


def test_an_identity_is_opened_while_another_process_makes_room(disk: Disk) -> None:
    disk.open().close()
    root = open_root(disk.folder)
    folder = open_folder(root, IDENTITY.digest.hex())
    opened: list[DiskStore] = []
    with Account(root, lambda: disk.time).held():
        held = lock(folder, "process")
        opening = threading.Thread(target=lambda: opened.append(disk.open()))
        opening.start()
        opening.join(0.05)
        os.close(held)
    opening.join()
    assert opened[0].put(single(1)) is StoreOutcome.STORED
    assert not disk.lines
    opened[0].close()
    os.close(folder)
    os.close(root)


def test_identities_do_not_see_each_other(disk: Disk) -> None:
    own, other = disk.open(), disk.open(OTHER)
    own.put(single(1))
    assert other.get(single(1).address) is None
    other.close()
    own.close()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_what_only_has_the_name_of_a_segment_or_an_index_is_not_read(
    disk: Disk, make: Callable[[Path], None]
) -> None:
    store = disk.open()
    store.put(single(1))
    store.close()
    disk.lose_index()
    own = disk.segments[0].parent
    make(own / "00000007.seg")
    make(own / "index")
    store = disk.open()
    assert is_right(single(1), store.get(single(1).address))
    assert store.put(single(2)) is StoreOutcome.STORED
    assert is_right(single(2), store.get(single(2).address))
    store.close()
    assert disk.segments[-1].name == "00000008.seg"
