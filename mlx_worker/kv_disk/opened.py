"""The folder of one identity while a process has the identity open: descriptors, lock, index.

[child]
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.account import Account, AccountBusy
from mlx_worker.kv_disk.eviction import INDEX_NAME, read_file
from mlx_worker.kv_disk.files.folder import lock, open_file, open_folder, open_root, same_folder
from mlx_worker.kv_disk.files.index import Index, SegmentState, entry_of, in_pieces
from mlx_worker.kv_disk.files.payload import BadRecord
from mlx_worker.kv_disk.files.records import Mark
from mlx_worker.kv_disk.files.saved_index import MAX_SAVED, dump, parse
from mlx_worker.kv_disk.files.segments import Segments
from mlx_worker.system.garbage import garbage_kept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_worker.kv_disk.files.keys import HasDigest
    from mlx_worker.kv_disk.files.segments import ReadAt, WriteAt

_TEMPORARY: Final = "index.new"
_PIECE: Final = 500


class OpenedFolder:
    """Everything that ends with the descriptors of the folder."""

    def __init__(
        self,
        path: Path,
        identity: HasDigest,
        now: Callable[[], float],
        write_at: WriteAt,
        read_at: ReadAt,
        *,
        create: bool,
    ) -> None:
        self._path = path
        self._identity = identity
        self.name = identity.digest.hex()
        with contextlib.ExitStack() as stack:
            self.root = open_root(path, create=create)
            stack.callback(os.close, self.root)
            self.folder = open_folder(self.root, self.name)
            stack.callback(os.close, self.folder)
            self.account = Account(self.root, now)
            stack.callback(os.close, self._locked())
            self.segments = Segments(self.folder, identity.digest, write_at, read_at)
            self.index = Index()
            self.states: dict[int, SegmentState] = {}
            self.active = 0
            with contextlib.suppress(OSError):
                os.unlink(_TEMPORARY, dir_fd=self.folder)  # a crash left a save half done
            # Streams need pauses when a disk has healed; at the start of a process there are none.
            piece = sys.maxsize if create else _PIECE
            with garbage_kept():
                self._load(now(), piece)
            self._descriptors = stack.pop_all()

    def close(self) -> None:
        """Close all descriptors, and so release the lock."""
        self._descriptors.close()

    def check_path(self) -> None:
        """Raise OSError where the path no longer leads to this folder."""
        if not same_folder(self._path, self.root):
            raise FileNotFoundError(f"{self._path} is another folder now")

    def dump_index(self, now: float) -> list[bytes]:
        """Return what the saved index is to hold, in pieces."""
        for number, (size, changed) in self.segments.sizes().items():
            state = self.states.get(number)
            if state is not None and size == state.end:
                state.changed = changed
        return dump(self._identity.digest, self.index, self.states, now)

    def save_index(self, pieces: list[bytes]) -> bool:
        """Write the saved index; False where something else has its name, a folder perhaps.

        The caller has made room for the pieces.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            with os.fdopen(open_file(self.folder, _TEMPORARY, flags), "wb") as file:
                file.writelines(pieces)
            os.rename(_TEMPORARY, INDEX_NAME, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except (OSError, StorageError) as error:
            with contextlib.suppress(OSError):
                os.unlink(_TEMPORARY, dir_fd=self.folder)
            if isinstance(error, (IsADirectoryError, StorageError)):
                return False
            raise
        return True

    def try_write(self, content: bytes) -> bool:
        """Write a file and remove the file; False where something else has its name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            descriptor = open_file(self.folder, _TEMPORARY, flags)
        except (IsADirectoryError, StorageError):
            return False
        try:
            self.segments.write(descriptor, [memoryview(content)], 0)
        finally:
            os.close(descriptor)
            os.unlink(_TEMPORARY, dir_fd=self.folder)
        return True

    def remove_index(self) -> None:
        """Remove the saved index, and what a crash left of one."""
        for name in (INDEX_NAME, _TEMPORARY):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.folder)

    def _locked(self) -> int:
        """Return the descriptor that holds the lock. Raises StorageError where a process has it.

        A process that makes room has the locks of identities that are not open, for a moment, and
        always holds the account meanwhile.
        """
        try:
            return lock(self.folder, "process")
        except StorageError as error:
            try:
                with self.account.held():
                    return lock(self.folder, "process")
            except AccountBusy:
                raise error from None

    def _load(self, now: float, piece: int) -> None:
        """Fill the index: from the saved copy where a segment is as the copy says, or by a scan."""
        try:
            content = read_file(self.folder, INDEX_NAME, MAX_SAVED)
            saved, entries = parse(content, self._identity.digest, piece)
        except (OSError, StorageError, BadRecord):  # only a shortcut
            saved, entries = {}, {}
        for number, (size, changed) in self.segments.sizes().items():
            known = saved.get(number)
            if known is not None and (known.end, known.changed) == (size, changed):
                self.states[number] = known
                found = entries[number]
            else:
                try:
                    headers, end, _ = self.segments.scan(number)
                except StorageError:  # a link or another user's file: neither read nor removed
                    continue
                self.states[number] = SegmentState(end, changed, is_sealed=end != size)
                found = [entry_of(header, number, offset, now) for offset, header in headers]
                uses = {entry.address: entry for entry in entries.get(number, ())}
                for entry in found:
                    if entry.address in uses:
                        entry.uses = uses[entry.address].uses
                        entry.used_at = uses[entry.address].used_at
            for entry in in_pieces(found, piece):
                if entry.mark is not Mark.DELETED:
                    self.index.add(entry)
        self.active = max(self.segments.numbers(), default=0)
