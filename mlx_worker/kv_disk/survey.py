"""Look at the folder of KV on disk without a change: for `check` and `doctor`.

[front]
"""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.account import Account
from mlx_worker.kv_disk.files.folder import FORMAT_NAME, LOCK_NAME, is_locked, open_file, open_root
from mlx_worker.kv_disk.place import capacity_of, kv_folder
from mlx_worker.kv_disk.space import free_bytes_of

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.config.schema import CacheConfig

_LONGEST_PID: Final = 20
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found of the folder. Sizes are in bytes.

    `held` is what the folder holds, `capacity` what a node that starts now lets it hold, `free`
    what the volume has free. `holder` is the node that uses the folder, "" for none.
    """

    path: Path
    held: int
    capacity: int
    free: int
    holder: str = ""


def survey(config: CacheConfig) -> Survey:
    """Look at the folder, or where it is to be made.

    Raises StorageError for a folder that must not be used, OSError where the volume fails.
    """
    path = kv_folder(config)
    if not os.path.lexists(path) or _is_empty(path):
        descriptor = os.open(_existing(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            free = free_bytes_of(descriptor)
        finally:
            os.close(descriptor)
        return Survey(path, 0, capacity_of(config, free=free, held=0), free)
    root = open_root(path, create=False)
    try:
        free, held = free_bytes_of(root), Account(root, time.time).total()
        holder = _holder(root) if is_locked(root) else ""
        return Survey(path, held, capacity_of(config, free=free, held=held), free, holder)
    finally:
        os.close(root)


def remedy(config: CacheConfig) -> str:
    """Return what an operator does about a folder that a node refuses."""
    path = kv_folder(config)
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return f"make {path.parent} a folder of this user's, or name another by cache.path"
    if not stat.S_ISDIR(status.st_mode):
        return f"remove {path}, or name a folder by cache.path"
    if status.st_uid != os.geteuid():
        return f"name a folder of this user's own by cache.path, or `sudo rm -r {path}`"
    if status.st_mode & _OTHERS_MAY_WRITE:
        return f"`chmod go-rwx {path}`; remove the folder if others may have written to it"
    if (path / FORMAT_NAME).exists():
        return f"`rm -r {path}` unless another version of mlx-worker needs it"
    return f"name another folder by cache.path: {path} holds something else"


def _is_empty(path: Path) -> bool:
    """Return True for an empty folder that a node would take."""
    status = path.lstat()
    is_private = status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_WRITE
    return is_private and stat.S_ISDIR(status.st_mode) and not any(path.iterdir())


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _holder(root: int) -> str:
    """Return the node that has locked the folder, by the number that it wrote into the lock."""
    try:
        descriptor = open_file(root, LOCK_NAME)
        try:
            content = os.read(descriptor, _LONGEST_PID)
        finally:
            os.close(descriptor)
    except (OSError, StorageError):
        content = b""
    found = re.fullmatch(rb"(\d+)\n", content)
    return f"the node with process {int(found[1])}" if found else "another node"
