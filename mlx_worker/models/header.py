"""The header of a safetensors file, read without its weights.

The header names the arrays and says where the last one ends. A file that ends before was cut off,
and is better noticed here than in the middle of a load; neither mlx nor this node reads the bytes
after the last array. [both]
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


HALVES: Final = frozenset({"F16", "BF16"})
SINGLE: Final = "F32"


class _Array(msgspec.Struct):
    data_offsets: tuple[int, int]
    dtype: str = ""

    @property
    def nbytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]


class Header(msgspec.Struct, frozen=True):
    """What a safetensors file holds: the names of its arrays and their bytes in all.

    `surplus` counts the bytes after the last array. `half_bytes` of the weights are floating-point
    numbers of 16 bits, `single_bytes` those of 32 bits.
    """

    names: frozenset[str]
    weight_bytes: int
    surplus: int
    half_bytes: int = 0
    single_bytes: int = 0


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file and compare it with the file's length.

    Raises BadModelFolder, naming the file, where the file does not hold what its header names.
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
    arrays = _arrays(path, header)
    weights = max((array.data_offsets[1] for array in arrays.values()), default=0)
    expected = _LENGTH_BYTES + header_bytes + weights
    if size < expected:
        raise BadModelFolder(
            f"{path} is damaged: its header describes {expected} bytes, not {size}"
        )
    half = sum(array.nbytes for array in arrays.values() if array.dtype in HALVES)
    single = sum(array.nbytes for array in arrays.values() if array.dtype == SINGLE)
    return Header(frozenset(arrays), weights, size - expected, half, single)


def _arrays(path: Path, header: bytes) -> dict[str, _Array]:
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        return {
            name: msgspec.json.decode(raw, type=_Array)
            for name, raw in entries.items()
            if name != "__metadata__"
        }
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadModelFolder(f"{path} has a broken header: {error}") from error
