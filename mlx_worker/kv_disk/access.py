"""The folder of a store, open or not: it is opened, healed after errors, and its records change.

Errors of the disk turn the tier off and never reach a caller. [child]
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.account import AccountBusy
from mlx_worker.kv_disk.availability import Availability
from mlx_worker.kv_disk.files.records import Mark
from mlx_worker.kv_disk.opened import OpenedFolder
from mlx_worker.kv_disk.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mlx_worker.kv_disk.files.index import IndexEntry
    from mlx_worker.kv_disk.files.keys import HasDigest
    from mlx_worker.kv_disk.files.records import Address
    from mlx_worker.kv_disk.files.segments import ReadAt, WriteAt
    from mlx_worker.kv_disk.space import Limits


class FolderAccess:
    """The folder of one identity: the open one if there is one, its space and its availability.

    `writing` is held while a record is stored, marked or deleted, `lock` while the index is read.
    """

    def __init__(
        self,
        path: Path,
        identity: HasDigest,
        limits: Limits,
        *,
        report: Callable[[str], None],
        now: Callable[[], float],
        monotonic: Callable[[], float],
        free_bytes: Callable[[int], int],
        write_at: WriteAt,
        read_at: ReadAt,
    ) -> None:
        self.identity = identity
        self.now = now
        self.availability = Availability(report, monotonic)
        self.writing = threading.RLock()
        self.lock = threading.RLock()
        self.space = Space(limits, self.lock, now, free_bytes)
        self.opened: OpenedFolder | None = None
        self._path = path
        self._write_at = write_at
        self._read_at = read_at
        self._report = report
        self._is_name_taken = False
        self._suspects: list[Address] = []
        with self.writing:
            self._open(create=True)

    def find(self, address: Address) -> IndexEntry | None:
        """Return what the index knows of a record."""
        with self.lock:
            return self.opened.index.get(address) if self.opened else None

    # --- the folder ---

    def heal(self) -> None:
        """Open the folder again where the disk failed long enough ago."""
        if not self.availability.is_retry_due():
            return
        if self.availability.can_read:
            self.availability.try_again()
        else:
            self.release()
            self._open(create=False)

    def release(self) -> None:
        """Close the folder; no thread that looks a record up waits for a disk that hangs."""
        with self.lock:
            opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()

    def save(self, opened: OpenedFolder) -> None:
        """Save the index; say once where another program has taken its name."""
        if not self.space.save_index(opened) and not self._is_name_taken:
            self._is_name_taken = True
            self._report("the index of the KV cache on disk cannot be saved: not a regular file")

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn the tier off where the disk fails, without an error to the caller."""
        try:
            yield
        except AccountBusy:
            return
        except (OSError, StorageError) as error:
            self.availability.switch_off(error)

    def _open(self, *, create: bool) -> None:
        with self.guard():
            opened = OpenedFolder(
                self._path,
                self.identity,
                self.now,
                self._write_at,
                self._read_at,
                create=create,
            )
            with self.lock:
                self.opened = opened
            for entry in [entry for entry in opened.index if entry.mark is Mark.TRIED]:
                self.delete(entry)
            suspects, self._suspects = self._suspects, []
            self.suspect(suspects)  # before anything can be read
            self.space.measure(opened)
            self.availability.try_again()

    # --- its records ---

    def suspect(self, addresses: Iterable[Address]) -> None:
        """Set records aside that a child read shortly before its death; delete those tried."""
        with self.writing:
            if self.opened is None:
                self._suspects += addresses  # until the folder can be opened
                return
            for address in addresses:
                entry = self.find(address)
                if entry is not None and entry.mark is not Mark.LIVE:
                    self.delete(entry)
                elif entry is not None and not self.set_mark(entry, Mark.SUSPECT):
                    with self.lock:  # on a volume that is read-only, this process knows
                        self.opened.index.mark(entry, Mark.SUSPECT)

    def set_mark(self, entry: IndexEntry, mark: Mark) -> bool:
        """Change a record's mark on disk, then in memory; False if the disk failed."""
        with self.writing, self.guard():
            if self.opened is None or self.find(entry.address) is not entry:
                return False
            self._mark(self.opened, entry, mark)
            return True
        return False

    def delete(self, entry: IndexEntry) -> None:
        """Delete a record; remove its segment with its last record."""
        with self.writing:
            opened = self.opened
            if opened is None or self.find(entry.address) is not entry:
                return
            with self.lock:
                opened.index.remove(entry.address)
            with self.guard():
                if opened.index.of_segment(entry.segment):
                    self._mark(opened, entry, Mark.DELETED)
                else:
                    self.space.remove_segment(opened, entry.segment)

    def _mark(self, opened: OpenedFolder, entry: IndexEntry, mark: Mark) -> None:
        """Change a record's mark on disk, then in memory."""
        try:
            opened.segments.mark(entry.segment, entry.offset, mark)
        except (StorageError, FileNotFoundError):
            self.space.forget_segment(opened, entry.segment)
        with self.lock:
            opened.index.mark(entry, mark)
