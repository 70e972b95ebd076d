"""Folders whose files this user's processes run: no other user can write to them.

[front]
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO


def private_folder(folder: Path) -> Path:
    """Return the folder; create the folder and the one above if there is none.

    Raises OSError if the folder cannot be created, or if other users own it or may use it.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A user who may write to the parent may put another folder in its place.
    _check_private(folder.parent, folder.parent.stat(), _OTHERS_MAY_WRITE)
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_private(folder, folder.lstat(), _OTHERS_MAY)
    return folder


def check_private_file(file: Path) -> None:
    """Raise PermissionError for a file that is no regular file of this user's alone."""
    found = file.lstat()
    if (
        not stat.S_ISREG(found.st_mode)
        or found.st_uid != os.getuid()
        or found.st_nlink != 1
        or found.st_mode & _OTHERS_MAY
    ):
        raise PermissionError(f"{file} is no private file of this user's own: remove it")


def _check_private(folder: Path, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is no folder of this user's own: remove it")
    if found.st_mode & forbidden:
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(f"{folder}: others may use it (mode {mode:03o}): remove it")
