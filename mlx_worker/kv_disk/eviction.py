"""Which segment goes first, and the segments of identities that no process has open.

Whole segments are removed: one unlink frees their bytes at once and writes nothing, where
compaction would write most of a segment again, out of the same budget of bytes a day that new KV
needs. What is worth far more than its neighbours is copied out of a segment before. [child]
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from mlx_worker.errors import StorageError
from mlx_worker.kv_disk.files.folder import lock, open_file, open_folder
from mlx_worker.kv_disk.files.index import decay
from mlx_worker.kv_disk.files.payload import BadRecord
from mlx_worker.kv_disk.files.saved_index import MAX_SAVED, parse_segments
from mlx_worker.kv_disk.files.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.kv_disk.files.index import SegmentState

INDEX_NAME: Final = "index"

_FOLDER: Final = re.compile(r"[0-9a-f]{32}")


class Victim(NamedTuple):
    """A segment that could be removed. `folder` is "" for the identity's own."""

    density: float
    """Seconds saved by a byte."""

    folder: str
    number: int
    size: int


def resting_victims(root: int, own: str, now: float) -> list[Victim]:
    """Return the segments of the identities that no process has open.

    Their worth is what their saved index says, 0 without one.
    """
    victims = []
    for name in _identities(root, own):
        with _resting(root, name) as folder:
            if folder is None:
                continue
            identity = bytes.fromhex(name)
            saved = _saved_segments(folder, identity)
            for number, (size, _) in Segments(folder, identity).sizes().items():
                state = saved.get(number)
                worth = state.worth * decay(now - state.valued_at) if state else 0.0
                victims.append(Victim(worth / max(1, size), name, number, size))
    return victims


def remove_resting(root: int, victim: Victim) -> bool:
    """Remove a segment of a resting identity; False if the identity has been opened since."""
    with _resting(root, victim.folder) as folder:
        if folder is None:
            return False
        segments = Segments(folder, bytes.fromhex(victim.folder))
        with contextlib.suppress(FileNotFoundError):
            segments.remove(victim.number)
        if not segments.sizes():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(INDEX_NAME, dir_fd=folder)
        return True


def read_file(folder: int, name: str, limit: int) -> bytes:
    """Return the content of a small file; at most `limit` bytes and one more."""
    descriptor = open_file(folder, name)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit + 1)


def _identities(root: int, own: str) -> list[str]:
    return [name for name in os.listdir(root) if _FOLDER.fullmatch(name) and name != own]


@contextlib.contextmanager
def _resting(root: int, name: str) -> Iterator[int | None]:
    """Give the folder of an identity, locked; None if in use or not to be trusted."""
    with contextlib.ExitStack() as stack:
        try:
            folder = open_folder(root, name, create=False)
            stack.callback(os.close, folder)
            stack.callback(os.close, lock(folder, "process"))
        except (OSError, StorageError):
            yield None
            return
        yield folder


def _saved_segments(folder: int, identity: bytes) -> dict[int, SegmentState]:
    try:
        return parse_segments(read_file(folder, INDEX_NAME, MAX_SAVED), identity)
    except (OSError, StorageError, BadRecord):
        return {}
