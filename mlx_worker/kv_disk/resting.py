"""Look into the folder of the KV on disk from outside: list, verify and clear what is in it.

Listing takes no lock and changes nothing, so a process may have an identity open meanwhile. Only an
identity that no process has open is changed. [both]
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.eviction import INDEX_NAME, read_file
from mlx_worker.kv_disk.files.folder import lock, open_folder, open_root
from mlx_worker.kv_disk.files.index import entry_of, in_pieces, release
from mlx_worker.kv_disk.files.names import read_models, remove_models
from mlx_worker.kv_disk.files.payload import BadRecord
from mlx_worker.kv_disk.files.records import KV_KINDS, Mark, decode_body
from mlx_worker.kv_disk.files.saved_index import MAX_SAVED, parse
from mlx_worker.kv_disk.files.segments import Segments
from mlx_worker.kv_disk.space import Limits
from mlx_worker.kv_disk.store import DiskStore
from mlx_worker.system.garbage import garbage_kept

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlx_worker.kv_disk.files.index import IndexEntry
    from mlx_worker.kv_disk.files.records import Address

_FOLDER: Final = re.compile(r"[0-9a-f]{32}")
_UNBOUNDED: Final = 1 << 62
_PIECE: Final = 1000
_SEGMENTS: Final = 16
_SHORTEST: Final = 8
"""Characters of an identity that are enough to name it."""


@dataclass(frozen=True, slots=True)
class IdentityOnDisk:
    """What one identity has on disk. `models` had this identity, the latest first.

    `tokens` are those of all chunks; `last_used` is in seconds since the epoch.
    """

    identity: str
    models: tuple[str, ...]
    records: int
    tokens: int
    nbytes: int
    last_used: float

    def is_meant(self, name: str) -> bool:
        """Return True if the name is that of a model or begins the identity."""
        is_identity = len(name) >= _SHORTEST and self.identity.startswith(name)
        return name in self.models or is_identity


@dataclass(frozen=True, slots=True)
class Verified:
    """How many records of one identity were right, and how many were not.

    `deleted` of the wrong ones are gone; the others are in use, and their process deletes each when
    it is read. `unreadable_bytes` lie behind a damaged header, where no record is ever read.
    """

    identity: str
    models: tuple[str, ...]
    right: int
    wrong: int
    deleted: int
    unreadable_bytes: int


def list_stored(path: Path) -> list[IdentityOnDisk]:
    """Return what each identity has, the one used last first; [] where there is no folder.

    Raises StorageError for a folder that must not be used, OSError where the volume fails.
    """
    found = []
    for name in _identities(path):
        with _opened(path, name) as contents:
            if contents is not None and contents.sizes:
                found.append(contents.stored())
    return sorted(found, key=lambda stored: stored.last_used, reverse=True)


def verify(path: Path, identity: str) -> Verified:
    """Read every record of an identity, and delete those that are not right.

    Raises as `list_stored` does.
    """
    right, wrong = 0, []
    with _opened(path, identity) as contents:
        if contents is None:
            return Verified(identity, (), 0, 0, 0, 0)
        for entry in contents.entries:
            is_right = contents.is_right(entry)
            right += is_right is True
            if is_right is False:
                wrong.append(entry.address)
        models, unreadable = contents.models, contents.unreadable_bytes
    deleted = _delete(path, identity, wrong) if wrong else 0
    return Verified(identity, models, right, len(wrong), deleted, unreadable)


def clear(path: Path, identity: str) -> bool:
    """Delete everything of an identity; return False if a process has the identity open.

    Raises as `list_stored` does.
    """
    with contextlib.ExitStack() as stack:
        root = open_root(path, create=False)
        stack.callback(os.close, root)
        try:
            folder = open_folder(root, identity, create=False)
        except FileNotFoundError:
            return True
        stack.callback(os.close, folder)
        try:
            stack.callback(os.close, lock(folder, "process"))
        except StorageError:
            return False
        segments = Segments(folder, bytes.fromhex(identity))
        for number in segments.numbers():
            segments.remove(number)
        for name in (INDEX_NAME, f"{INDEX_NAME}.new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        remove_models(folder)  # the lock stays: another process may wait for it
        return True


class _Contents:
    """The records of one identity, as a saved index and the segments' headers have them."""

    def __init__(self, folder: int, identity: str) -> None:
        self._segments = Segments(folder, bytes.fromhex(identity))
        self._identity = identity
        self.models = read_models(folder)
        self.sizes = self._segments.sizes()
        self.unreadable_bytes = 0
        self.entries: list[IndexEntry] = []
        try:
            content = read_file(folder, INDEX_NAME, MAX_SAVED)
            saved, entries = parse(content, bytes.fromhex(identity))
        except (OSError, StorageError, BadRecord):
            saved, entries = {}, {}
        by_address: dict[Address, IndexEntry] = {}
        for number, (size, changed) in in_pieces(self.sizes.items(), _SEGMENTS):
            known = saved.get(number)
            if known is not None and (known.end, known.changed) == (size, changed):
                found = entries[number]
            else:
                found = self._scan(number, changed / 1e9)
            by_address |= {entry.address: entry for entry in found}
        self.entries = [entry for entry in by_address.values() if entry.mark is not Mark.DELETED]

    def _scan(self, number: int, changed: float) -> list[IndexEntry]:
        try:
            headers, end, size = self._segments.scan(number)
        except (FileNotFoundError, StorageError):  # evicted meanwhile, or not ours
            return []
        self.unreadable_bytes += size - end
        return [entry_of(header, number, offset, changed) for offset, header in headers]

    def stored(self) -> IdentityOnDisk:
        """Return the sums."""
        lengths = {
            entry.address.key: entry.stop - entry.start
            for entry in self.entries
            if entry.address.kind in KV_KINDS
        }
        changed = max((ns / 1e9 for _, ns in self.sizes.values()), default=0.0)
        return IdentityOnDisk(
            self._identity,
            self.models,
            len(self.entries),
            sum(lengths.values()),
            sum(size for size, _ in self.sizes.values()),
            max((entry.used_at for entry in self.entries), default=changed),
        )

    def is_right(self, entry: IndexEntry) -> bool | None:
        """Return True if the bytes of a record are right; None if the record is gone."""
        try:
            header, body = self._segments.read(entry.segment, entry.offset)
            if header.mark is Mark.DELETED:
                return None
            decode_body(header, body)
        except FileNotFoundError:
            return None
        except (BadRecord, StorageError):
            return False
        return header.address == entry.address and header.parent == entry.parent


class _ById:
    """An identity of which only the digest is known."""

    def __init__(self, identity: str) -> None:
        self.digest = bytes.fromhex(identity)


def _delete(path: Path, identity: str, addresses: list[Address]) -> int:
    """Delete records of an identity that no process has open; return how many."""
    lines: list[str] = []
    limits = Limits(_UNBOUNDED, _UNBOUNDED, free_min=0)
    store = DiskStore(path, _ById(identity), limits, report=lines.append)
    try:
        if lines:  # in use, or the disk fails
            return 0
        for address in addresses:
            store.delete(address)
        return len(addresses)
    finally:
        store.close()


def _identities(path: Path) -> list[str]:
    try:
        root = open_root(path, create=False)
    except FileNotFoundError:
        return []
    try:
        return sorted(name for name in os.listdir(root) if _FOLDER.fullmatch(name))  # noqa: PTH208
    finally:
        os.close(root)


@contextlib.contextmanager
def _opened(path: Path, identity: str) -> Iterator[_Contents | None]:
    """Give the contents of an identity; None if there are none that can be trusted."""
    with contextlib.ExitStack() as stack:
        root = open_root(path, create=False)
        stack.callback(os.close, root)
        try:
            folder = open_folder(root, identity, create=False)
        except (FileNotFoundError, StorageError):
            yield None
            return
        stack.callback(os.close, folder)
        stack.enter_context(garbage_kept())
        contents = _Contents(folder, identity)
        try:
            yield contents
        finally:
            release(contents.entries, _PIECE)
