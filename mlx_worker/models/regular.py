"""Regular files only: a FIFO, a device or a socket in a file's place must not block its reader.

[both]
"""

from __future__ import annotations

import os
import stat
from typing import IO, TYPE_CHECKING, Final

from mlx_worker.errors import BadModelFolder

if TYPE_CHECKING:
    from pathlib import Path

MOST_JSON_BYTES: Final = 1 << 30
"""Of a file that is read whole: a vocabulary takes some tens of megabytes."""


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading, without ever waiting for a writer.

    Raises BadModelFolder for anything else, OSError as `open` does.
    """
    # Before the file is opened: to open a device may do something.
    _require_regular(path, path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # The file may have been replaced since the first check.
        _require_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path) -> bytes:
    """Read a whole regular file. Raises BadModelFolder where that is no file or too large."""
    with open_regular(path) as file:
        content = file.read(MOST_JSON_BYTES + 1)
    if len(content) > MOST_JSON_BYTES:
        raise BadModelFolder(f"{path} has more than {MOST_JSON_BYTES} bytes")
    return content


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise BadModelFolder(f"{path} is {_kind(mode)}, not a regular file")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
