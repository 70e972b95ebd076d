"""A hash of a loaded model: the same hash means the same weights and texts.

The hash covers every byte of the parameters in memory, not a sample of the files: files may change
on the disk while a model loads, and an edit of a single number is another model. Parameters are
summed on the device, in rows and in columns, at the speed of memory; only the sums are hashed. A
change of one word always changes a sum, and so does an exchange of two words. [child]
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_worker.errors import InferenceError
from mlx_worker.models.folder_hash import TEXTS, files_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROW: Final = 4096
"""Words of 32 bits that make one row sum."""

_BITE: Final = 256 << 20
"""Bytes of parameters that are summed in one evaluation."""

_LONGEST_TEXT: Final = 256 << 20
"""Bytes: no file of a tokenizer is larger."""

FolderState = tuple[tuple[str, int, int, int, int], ...]


def folder_state(folder: Path) -> FolderState:
    """Return the state of each file that loading may read, without reading any."""
    states = []
    for path in files_of(folder):
        try:
            stat = path.stat()
        except FileNotFoundError:  # the file was removed just now
            continue
        name = str(path.relative_to(folder))
        states.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(states)


def check_unchanged(folder: Path, before: FolderState) -> None:
    """Raise InferenceError where files of the folder changed after `before` was taken."""
    changed = {state[0] for state in set(before) ^ set(folder_state(folder))}
    if changed:
        names = ", ".join(sorted(changed)[:3])
        raise InferenceError(f"files in {folder} changed while the model was loaded: {names}")


def model_identity(folder: Path, model: Any, configured: tuple[str, ...] = ()) -> str:
    """Return SHA-256 hex over a model's parameters in memory and the texts in its folder.

    The same model has the same identity in any folder. `configured` is what the configuration
    puts in place of files of the folder.
    """
    digest = hashlib.sha256()
    arrays = tree_flatten(model.parameters())
    for name, array in arrays:
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    for sums in _sums([array for _, array in arrays]):
        digest.update(sums)
    for path in files_of(folder):
        if path.suffix in TEXTS:
            content = _content(path)
            digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode())
            digest.update(content)
    for text in configured:
        digest.update(f"{len(text)} {text}\n".encode())
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    """Return a text's bytes; b"" for a file that no loader can have read either."""
    try:
        return path.read_bytes() if path.stat().st_size <= _LONGEST_TEXT else b""
    except PermissionError:
        return b""


def _sums(arrays: list[mx.array]) -> Iterator[bytes]:
    """Yield the sums of all arrays, in their order, evaluating a bite at a time."""
    pending: list[mx.array] = []
    size = 0
    for array in arrays:
        pending += _sums_of(array)
        size += array.nbytes
        if size >= _BITE:
            yield from _evaluated(pending)
            pending, size = [], 0
    yield from _evaluated(pending)


def _evaluated(sums: list[mx.array]) -> Iterator[bytes]:
    mx.eval(sums)
    for array in sums:
        yield bytes(memoryview(array))  # type: ignore[arg-type]  # its stub hides the buffer


def _sums_of(array: mx.array) -> list[mx.array]:
    """Return row and column sums over an array's bits; they wrap around."""
    if not array.size:
        return []
    words = _words(array)
    rows = words.size // _ROW
    table, rest = words[: rows * _ROW].reshape(-1, _ROW), words[rows * _ROW :]
    sums = [rest] if rest.size else []
    return [*sums, mx.sum(table, axis=1), mx.sum(table, axis=0)] if rows else sums


def _words(array: mx.array) -> mx.array:
    """Return an array's bits as numbers of 32 bits, in one dimension."""
    flat = array.reshape(-1)
    if flat.dtype == mx.bool_:
        return flat.astype(mx.uint32)
    if flat.nbytes % 4 == 0:
        return flat.view(mx.uint32)
    halves = flat.view(mx.uint16 if flat.nbytes % 2 == 0 else mx.uint8)
    return halves.astype(mx.uint32)
