"""Errors of the disk as StorageError, with numbers.

A full, read-only or forbidden disk is a problem for the operator and not a defect of the program.
The durable write that the model folders are made of is here too. [both]
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mlx_worker.config.sizes import in_words
from mlx_worker.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_REFUSALS: Final = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),  # full or failing
        *(errno.EROFS, errno.EACCES, errno.EPERM),  # not permitted
        *(errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),  # something else is in the way
    }
)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn the disk's refusals inside the block into StorageError; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        where = error.filename or folder
        raise StorageError(f"cannot store {where}: {error.strerror}{_free(folder)}") from error


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise StorageError unless `needed` bytes are free where the existing `folder` lies."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{what} needs {in_words(needed)} in {folder}, but only {in_words(free)} are free"
        )


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Have the disk hold a written file, or a folder's list of names, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(folder: Path) -> str:
    try:
        return f" ({in_words(shutil.disk_usage(folder).free)} free)"
    except OSError:
        return ""
