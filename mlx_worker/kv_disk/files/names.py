"""The ids of the models whose KV a folder holds, as people know them: no KV is found by a name.

`ROOT/ID/model` has an id in each line, the latest first. What the file says is only shown, and says
which folder a person means who clears the KV of one model. [both]
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.files.folder import open_file, open_folder, open_root

if TYPE_CHECKING:
    from pathlib import Path

NAMES_FILE: Final = "model"

MAX_NAMES: Final = 8
MAX_CHARACTERS: Final = 256
_MAX_BYTES: Final = MAX_NAMES * MAX_CHARACTERS * 4
_TEMPORARY: Final = "model.new"


def record_model(path: Path, identity: bytes, model: str) -> None:
    """Name a model whose KV is kept under an identity; do nothing where the disk refuses.

    The caller has the identity open.
    """
    with contextlib.suppress(OSError, StorageError), contextlib.ExitStack() as stack:
        root = open_root(path, create=False)
        stack.callback(os.close, root)
        folder = open_folder(root, identity.hex(), create=False)
        stack.callback(os.close, folder)
        before = read_models(folder)
        names = list(dict.fromkeys(filter(None, (_shown(model), *before))))[:MAX_NAMES]
        if names == list(before):
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(open_file(folder, _TEMPORARY, flags), "wb") as file:
            file.write("\n".join(names).encode())
        os.rename(_TEMPORARY, NAMES_FILE, src_dir_fd=folder, dst_dir_fd=folder)


def record_in_background(path: Path, identity: bytes, model: str) -> None:
    """Do the same on a thread of its own, which nothing waits for: the disk may hang."""
    arguments = (path, identity, model)
    threading.Thread(target=record_model, args=arguments, name="kv-disk-name", daemon=True).start()


def read_models(folder: int) -> tuple[str, ...]:
    """Return the ids of the models of an identity's folder, () where none is known."""
    try:
        with os.fdopen(open_file(folder, NAMES_FILE), "rb") as file:
            text = file.read(_MAX_BYTES).decode(errors="replace")
    except (OSError, StorageError):
        return ()
    return tuple(filter(None, map(_shown, text.split("\n"))))[:MAX_NAMES]


def remove_models(folder: int) -> None:
    """Remove the names."""
    for name in (NAMES_FILE, _TEMPORARY):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _shown(name: str) -> str:
    """Return a name without what would disturb a terminal."""
    return "".join(filter(str.isprintable, name))[:MAX_CHARACTERS]
