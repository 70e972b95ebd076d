"""What tells the files of one model folder from those of another, on hosts that each have a copy.

A folder may have hundreds of gigabytes, and a model starts often: `sample` reads a part of each
large file, which finds another model, another quantization, another fine-tune and a copy that was
cut short. `whole` reads every byte, for `mlx-worker doctor --hosts`. [both]
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    _Reader = Callable[[Path], Iterator[bytes]]

TEXTS: Final = frozenset({".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"})
"""Suffixes of the files beside the weights that answers depend on."""

PLACES: Final = ("*", "additional_chat_templates/*")

UNREAD: Final = ".safetensors.index.json"
"""End of the name of a file that loading does not need: arrays have headers of their own."""

STRIDE: Final = 16 << 20
"""Bytes between two samples of a file."""

SAMPLE: Final = 4096

HEAD: Final = 1 << 20
"""Bytes at the beginning that are all read: the header of weights."""

DIGITS: Final = 16


def files_of(folder: Path) -> list[Path]:
    """Return the regular files that loading may read, in the order of their names."""
    found = [path for pattern in PLACES for path in folder.glob(pattern)]
    return sorted(path for path in found if _is_read(path))


def _is_read(path: Path) -> bool:
    is_known = path.suffix in TEXTS or path.suffix == ".safetensors"
    return is_known and not path.name.endswith(UNREAD) and path.is_file()


def sample(folder: Path) -> dict[str, str]:
    """Return a digest of each file's size and of a part of its bytes. Raises OSError."""
    return {str(path.relative_to(folder)): _digest(path, _sampled) for path in files_of(folder)}


def whole(folder: Path) -> dict[str, str]:
    """Return a digest of each file's bytes. Raises OSError."""
    return {str(path.relative_to(folder)): _digest(path, _all_of) for path in files_of(folder)}


def differing(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Return the names of files that are not the same on both hosts, in order."""
    return sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))


def _digest(path: Path, read: _Reader) -> str:
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    for data in read(path):
        digest.update(data)
    return digest.hexdigest()[:DIGITS]


def _sampled(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield file.read(HEAD)
        size = path.stat().st_size
        for start in [*range(STRIDE, size, STRIDE), max(0, size - SAMPLE)]:
            file.seek(start)
            yield file.read(SAMPLE)


def _all_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(HEAD):
            yield data
