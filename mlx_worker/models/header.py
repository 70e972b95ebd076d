"""The header of a safetensors file, read without its weights.

The header says where the last array ends; a file of another length was cut off or overwritten,
and is better noticed here than as a bus error in the middle of a load. [both]
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.regular import open_regular

if TYPE_CHECKING:
    from pathlib import Path

_LENGTH_BYTES: Final = 8

MOST_HEADER_BYTES: Final = 100_000_000
"""As the safetensors library has it."""


class _Array(msgspec.Struct):
    data_offsets: tuple[int, int]


def checked_weight_bytes(path: Path) -> int:
    """Return how many bytes of weights a safetensors file holds, read from its header alone.

    Raises BadModelFolder, naming the file, when header and length do not fit each other.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(_LENGTH_BYTES)
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES or header_bytes > size - _LENGTH_BYTES:
            raise BadModelFolder(
                f"{path} is truncated or no safetensors file: {size} bytes do not hold its header"
            )
        if header_bytes > MOST_HEADER_BYTES:
            raise BadModelFolder(f"{path} has a header of {header_bytes} bytes, too many to be one")
        header = file.read(header_bytes)
    weights = _end_of_data(path, header)
    expected = _LENGTH_BYTES + header_bytes + weights
    if size != expected:
        raise BadModelFolder(f"{path} is damaged: its header tells of {expected} bytes, not {size}")
    return weights


def _end_of_data(path: Path, header: bytes) -> int:
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        arrays = [
            msgspec.json.decode(raw, type=_Array)
            for name, raw in entries.items()
            if name != "__metadata__"
        ]
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadModelFolder(f"{path} has a broken header: {error}") from error
    return max((array.data_offsets[1] for array in arrays), default=0)
