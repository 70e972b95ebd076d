"""One pull of a model at a time, across processes.

An advisory lock on a file beside the model: the kernel lets go of it when the last process that
holds it ends, however it ends, so there is never a stale one to remove by hand. [front]
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_worker.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def pull_lock(models_dir: Path, name: str) -> Iterator[int]:
    """Hold the lock of one model; gives its descriptor, for children to inherit.

    Raises StorageError at once when another pull of that model holds it.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    path = models_dir / f".pulling-{name}.lock"
    descriptor = _locked(path, name)
    try:
        yield descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, name: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StorageError(f"another pull of {name} is under way (it holds {path})") from None
        if _still_there(path, descriptor):
            return descriptor
        os.close(descriptor)


def _still_there(path: Path, descriptor: int) -> bool:
    """Return True if the locked file is still at the path: its last owner unlinks it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
