"""The bytes of the whole folder, and the bytes written today: shared by all children of a node.

Children that write into one folder take turns by a lock on `ROOT/account`, held for one write.
The sizes of all files are measured anew each time, so a crash leaves no sum that is wrong. [both]
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import struct
import time
from typing import TYPE_CHECKING, Final

from mlx_worker.kv_disk.folder import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME: Final = "account"
DAY: Final = 86_400

_FIELDS: Final = struct.Struct("<8sqQ")
_MAGIC: Final = b"MLXWKVAC"
_CHECK_BYTES: Final = 8
_SECONDS: Final = 2.0
_PAUSE: Final = 0.001


class AccountBusy(Exception):
    """Another process held the account for too long: stopped, perhaps."""


class Account:
    """What all writers of the folder share."""

    def __init__(self, root: int, now: Callable[[], float]) -> None:
        self._root = root
        self._now = now

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the other writers out. Raises AccountBusy after two seconds.

        A lock that is waited for by the kernel has no deadline, and another child may be stopped
        while that child holds the lock. So the lock is tried again and again, more often than
        another writer leaves a gap between two writes.
        """
        descriptor = open_file(self._root, NAME, os.O_RDWR | os.O_CREAT)
        deadline = time.monotonic() + _SECONDS
        try:
            while not _locked(descriptor):
                if time.monotonic() >= deadline:
                    raise AccountBusy
                time.sleep(_PAUSE)
            yield
        finally:
            os.close(descriptor)

    def total(self) -> int:
        """Return the bytes of all files of the folder, those of other identities too."""
        return _bytes_below(self._root, ".", depth=2)

    def written_today(self, budget: int) -> int:
        """Return the bytes written today; all of `budget` where the account is damaged."""
        return self._load(budget)[1]

    def charge(self, nbytes: int, budget: int) -> int:
        """Add bytes to what was written today, and return the sum."""
        day, written = self._load(budget)
        written = min(written + nbytes, (1 << 64) - 1)
        fields = _FIELDS.pack(_MAGIC, day, written)
        descriptor = open_file(self._root, NAME, os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(descriptor, fields + _check(fields), 0)
        finally:
            os.close(descriptor)
        return written

    def _load(self, budget: int) -> tuple[int, int]:
        """Return the day and its bytes.

        A clock that goes back does not start a day anew: the bytes stay charged. After a step of
        more than a day the count goes on under the new date.
        """
        today = int(self._now() // DAY)
        descriptor = open_file(self._root, NAME, os.O_RDWR | os.O_CREAT)
        try:
            content = os.pread(descriptor, _FIELDS.size + _CHECK_BYTES + 1, 0)
        finally:
            os.close(descriptor)
        if not content:
            return today, 0
        fields = content[: _FIELDS.size]
        if len(content) != _FIELDS.size + _CHECK_BYTES or content[_FIELDS.size :] != _check(fields):
            return today, budget
        _, day, written = _FIELDS.unpack(fields)
        if today > day:
            return today, 0
        return (day if day - today <= 1 else today), written


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _bytes_below(parent: int, name: str, depth: int) -> int:
    """Return the bytes of all files of a folder.

    The folder is opened anew: scans of one descriptor by two threads share their place.
    """
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed just now by another child
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        total += status.st_size
                    elif stat.S_ISDIR(status.st_mode) and depth > 1:
                        total += _bytes_below(folder, entry.name, depth - 1)
    finally:
        os.close(folder)
    return total


def _check(fields: bytes) -> bytes:
    return hashlib.blake2b(fields, digest_size=_CHECK_BYTES).digest()
