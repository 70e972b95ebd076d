"""The temporary folder of children, to which no other user can write.

On a CPU mlx compiles kernels into the temporary folder under names that follow from their code,
and loads the libraries that it finds there. In a folder that all users share, another user could
put a library there first, and a child would run it. The private folder is kept from one start to
the next, because compiling takes a second a kernel.

[front]
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import platformdirs

from mlx_worker.config.schema import APP

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO


def scratch_folder() -> Path:
    """Return the temporary folder of children; create the folder if none exists.

    Raises OSError if the folder cannot be created, or if other users own it or may use it.
    """
    folder = platformdirs.user_cache_path(APP) / "scratch"
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A user who may write to the parent may put another folder in its place.
    _check_private(folder.parent, folder.parent.stat(), _OTHERS_MAY_WRITE)
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_private(folder, folder.lstat(), _OTHERS_MAY)
    return folder


def _check_private(folder: Path, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is no folder of this user's own: remove it")
    if found.st_mode & forbidden:
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(f"{folder}: others may use it (mode {mode:03o}): remove it")
