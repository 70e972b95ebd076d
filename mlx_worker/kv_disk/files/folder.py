"""The folders of the cache: private to their user, of one format, locked by one process.

`ROOT/format` names the version of the whole folder. `ROOT/lock` is held by the node, `ROOT/ID/lock`
by the process that has the identity open. The kernel releases a lock with the last descriptor,
however a process ends. Files are opened by name below a descriptor, never through a link. [both]
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_NAME: Final = "format"
FORMAT_TEXT: Final = b"mlx-worker kv 1\n"
LOCK_NAME: Final = "lock"

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LONGEST_FORMAT: Final = 256
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def open_root(path: Path, *, create: bool = True) -> int:
    """Return a descriptor of the cache's folder.

    Raises StorageError for a folder that must not be used, OSError where the volume fails.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=True)
    descriptor = _open_directory(os.fspath(path))
    try:
        _check_format(descriptor, path, create=create)
        _make_private(descriptor)  # only now: a folder of something else is left as it is
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_folder(root: int, name: str, *, create: bool = True) -> int:
    """Return a descriptor of a folder below the cache's folder."""
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=root)
    descriptor = _open_directory(name, root)
    try:
        _make_private(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(folder: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a regular file of this user.

    Raises StorageError for a link, a FIFO or another user's file.
    """
    try:
        descriptor = os.open(name, flags | _FILE, 0o600, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        if _is_regular(folder, name):
            raise
        raise StorageError(f"{name} is no regular file") from error
    status = os.fstat(descriptor)
    if (
        not stat.S_ISREG(status.st_mode)
        or status.st_uid != os.geteuid()
        or status.st_nlink > 1
        or status.st_mode & _WRITABLE_BY_OTHERS
    ):
        os.close(descriptor)
        raise StorageError(f"{name} is no private regular file")
    return descriptor


def lock(folder: int, holder: str) -> int:
    """Return the descriptor that holds the folder's lock. Raises StorageError where held."""
    descriptor = open_file(folder, LOCK_NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StorageError(f"the folder of the KV cache is used by another {holder}") from None
    return descriptor


def is_locked(folder: int) -> bool:
    """Return True if another process holds the folder's lock; no lock is made."""
    try:
        descriptor = open_file(folder, LOCK_NAME)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def same_folder(path: Path, descriptor: int) -> bool:
    """Return True if the path still leads to the open folder: a volume may have vanished."""
    return os.path.samestat(path.lstat(), os.fstat(descriptor))


def _open_directory(name: str, below: int | None = None) -> int:
    status = os.stat(name, dir_fd=below, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(f"{name} is no folder (links are not followed)")
    descriptor = os.open(name, _DIRECTORY, dir_fd=below)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
        os.close(descriptor)
        raise StorageError(f"{name} belongs to or can be written by other users")
    return descriptor


def _make_private(folder: int) -> None:
    """Take all rights of other users away."""
    if os.fstat(folder).st_mode & 0o077:
        os.fchmod(folder, 0o700)


def _check_format(root: int, path: Path, *, create: bool) -> None:
    """Write the format's name into an empty folder; refuse a folder that has another.

    The name may be empty: another process is about to write the name, or died before that.
    """
    text = b""
    with contextlib.suppress(FileNotFoundError):
        descriptor = open_file(root, FORMAT_NAME)
        try:
            text = os.read(descriptor, _LONGEST_FORMAT)
        finally:
            os.close(descriptor)
    if not text:
        if not create or set(os.listdir(root)) - {FORMAT_NAME, LOCK_NAME}:
            raise StorageError(f"{path} is no folder of the KV cache: left alone")
        descriptor = open_file(root, FORMAT_NAME, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(descriptor, FORMAT_TEXT, 0)
        finally:
            os.close(descriptor)
    elif text != FORMAT_TEXT:
        name = text.decode("ascii", "backslashreplace").strip()[:80]
        raise StorageError(f"{path} is of another version ({name!r}): left alone")


def _is_regular(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return True
