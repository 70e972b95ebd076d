"""What all children of a node share: the folder's bytes, those written today, who needs room.

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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mlx_worker.kv_disk.files.folder import open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME: Final = "account"
DAY: Final = 86_400

_FIELDS: Final = struct.Struct("<8sqQ16sdd")
_MAGIC: Final = b"MLXWKVAC"
_CHECK_BYTES: Final = 8
_SECONDS: Final = 2.0
_PAUSE: Final = 0.001


class AccountBusy(Exception):
    """Another process held the account for too long: stopped, perhaps."""


@dataclass(frozen=True)
class Need:
    """A record that found no room, because other identities in use have filled the folder."""

    identity: bytes
    density: float
    """Seconds that a byte of the record saves; infinite for an essential record."""

    at: float


NO_NEED: Final = Need(bytes(16), 0.0, 0.0)


@dataclass(frozen=True)
class _Content:
    day: int
    written: int
    need: Need = NO_NEED


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
        return self._load(budget).written

    def need(self, budget: int) -> Need:
        """Return the need of room that was said last."""
        return self._load(budget).need

    def say_need(self, need: Need, budget: int) -> None:
        """Say to the other writers that a record found no room; NO_NEED if one has made room."""
        self._save(replace(self._load(budget), need=need))

    def charge(self, nbytes: int, budget: int) -> int:
        """Add bytes to what was written today, and return the sum."""
        content = self._load(budget)
        written = min(content.written + nbytes, (1 << 64) - 1)
        self._save(replace(content, written=written))
        return written

    def _save(self, content: _Content) -> None:
        need = content.need
        fields = _FIELDS.pack(
            _MAGIC, content.day, content.written, need.identity, need.density, need.at
        )
        descriptor = open_file(self._root, NAME, os.O_RDWR | os.O_CREAT)
        try:
            length = os.pwrite(descriptor, fields + _check(fields), 0)
            os.ftruncate(descriptor, length)  # an account that is too long is damaged for ever
        finally:
            os.close(descriptor)

    def _load(self, budget: int) -> _Content:
        """Return the day, its bytes, and the need of room.

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
            return _Content(today, 0)
        fields = content[: _FIELDS.size]
        if len(content) != _FIELDS.size + _CHECK_BYTES or content[_FIELDS.size :] != _check(fields):
            return _Content(today, budget)
        _, day, written, *need = _FIELDS.unpack(fields)
        if today > day:
            return _Content(today, 0, Need(*need))
        return _Content(day if day - today <= 1 else today, written, Need(*need))


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
