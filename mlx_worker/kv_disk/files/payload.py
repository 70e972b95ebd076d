"""The bytes of a record: what each layer's arrays are, and the arrays as they lie in memory.

The description is a closed list of numbers: no class and no function is named by a file. Every
number is checked against a bound before any use, and the sizes have to add up to the byte. The
byte order is little-endian. Pure. [both]
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Final, NamedTuple, TypeVar

MAX_LAYERS: Final = 1024
MAX_ARRAYS: Final = 16
MAX_NUMBERS: Final = 8
MAX_AXES: Final = 8
MAX_DESCRIPTION: Final = 1 << 20
MAX_DATA: Final = 1 << 30
"""Bytes of the arrays of one record."""

E = TypeVar("E", bound=IntEnum)

_ABSENT: Final = 0xFF
_COUNT: Final = struct.Struct("<H")
_LAYER: Final = struct.Struct("<BBB")
_ARRAY: Final = struct.Struct("<BB")


class BadRecord(ValueError):
    """Bytes that are no record of this format."""


class Dtype(IntEnum):
    """The types of elements. The numbers are part of the format."""

    BOOL = 1
    UINT8 = 2
    UINT16 = 3
    UINT32 = 4
    UINT64 = 5
    INT8 = 6
    INT16 = 7
    INT32 = 8
    INT64 = 9
    FLOAT16 = 10
    BFLOAT16 = 11
    FLOAT32 = 12

    @property
    def size(self) -> int:
        """Return the bytes of one element."""
        return _SIZES[self]


_SIZES: Final = {
    **dict.fromkeys((Dtype.BOOL, Dtype.UINT8, Dtype.INT8), 1),
    **dict.fromkeys((Dtype.UINT16, Dtype.INT16, Dtype.FLOAT16, Dtype.BFLOAT16), 2),
    **dict.fromkeys((Dtype.UINT32, Dtype.INT32, Dtype.FLOAT32), 4),
    **dict.fromkeys((Dtype.UINT64, Dtype.INT64), 8),
}


class LayerFamily(IntEnum):
    """What a layer's arrays are. The numbers are part of the format."""

    NONE = 0  # the record has nothing of this layer
    FULL = 1
    QUANTIZED = 2
    ROTATING = 3
    ARRAYS = 4
    TURN = 5  # no layer: the parts of an answer's record


@dataclass(frozen=True, slots=True)
class ArrayBytes:
    """An array's type and shape, and its elements in row-major order."""

    dtype: Dtype
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """One layer's arrays, None where the layer has none, and the layer's own numbers."""

    family: LayerFamily
    numbers: tuple[int, ...] = ()
    arrays: tuple[ArrayBytes | None, ...] = ()


Payload = tuple[LayerBytes, ...]


def nbytes_of(payload: Payload) -> int:
    """Return the bytes of all arrays."""
    return sum(len(array.data) for layer in payload for array in layer.arrays if array)


def serialize(payload: Payload) -> tuple[bytes, list[bytes | memoryview]]:
    """Return the description and the data of each array, which is not copied.

    Raises BadRecord for what no file may hold.
    """
    parts = [_COUNT.pack(len(payload))]
    for layer in payload:
        parts.append(_LAYER.pack(layer.family, len(layer.numbers), len(layer.arrays)))
        parts.append(struct.pack(f"<{len(layer.numbers)}q", *layer.numbers))
        for array in layer.arrays:
            if array is None:
                parts.append(_ARRAY.pack(_ABSENT, 0))
            else:
                parts.append(_ARRAY.pack(array.dtype, len(array.shape)))
                parts.append(struct.pack(f"<{len(array.shape)}I", *array.shape))
    description = b"".join(parts)
    data = [array.data for layer in payload for array in layer.arrays if array]
    sizes = _sizes(description, sum(map(len, data)))
    if sizes != list(map(len, data)):  # what could not be read back is not written
        raise BadRecord("an array is not as large as its shape says")
    return description, data


def attach(description: bytes, data: memoryview) -> Payload:
    """Return the payload that the description and the bytes of the arrays make.

    The arrays are parts of `data`, not copies. Raises BadRecord.
    """
    return tuple(
        LayerBytes(
            layer.family,
            layer.numbers,
            tuple(
                array and ArrayBytes(array.dtype, array.shape, data[array.start : array.stop])
                for array in layer.arrays
            ),
        )
        for layer in _described(description, len(data))
    )


class _Place(NamedTuple):
    """An array's type and shape, and where its bytes lie in the data."""

    dtype: Dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class _Described(NamedTuple):
    family: LayerFamily
    numbers: tuple[int, ...]
    arrays: tuple[_Place | None, ...]


def _sizes(description: bytes, size: int) -> list[int]:
    return [
        array.stop - array.start
        for layer in _described(description, size)
        for array in layer.arrays
        if array
    ]


def _described(description: bytes, size: int) -> list[_Described]:
    """Return what a description says of `size` bytes of data. Raises BadRecord."""
    if len(description) > MAX_DESCRIPTION or size > MAX_DATA:
        raise BadRecord("the record is larger than any")
    reader = _DescriptionReader(description)
    (count,) = reader.unpack(_COUNT)
    if count > MAX_LAYERS:
        raise BadRecord("too many layers")
    layers = []
    start = 0
    for _ in range(count):
        family, number_count, array_count = reader.unpack(_LAYER)
        if number_count > MAX_NUMBERS or array_count > MAX_ARRAYS:
            raise BadRecord("too many parts in a layer")
        numbers = reader.unpack(struct.Struct(f"<{number_count}q"))
        arrays: list[_Place | None] = []
        for _ in range(array_count):
            array = reader.array(start, size)
            start = array.stop if array else start
            arrays.append(array)
        layers.append(_Described(_known(LayerFamily, family), numbers, tuple(arrays)))
    if start != size or not reader.at_end:
        raise BadRecord("the sizes do not add up")
    return layers


class _DescriptionReader:
    """Read a description from its start, never beyond its end."""

    def __init__(self, description: bytes) -> None:
        self._description = description
        self._place = 0

    @property
    def at_end(self) -> bool:
        return self._place == len(self._description)

    def unpack(self, struct_: struct.Struct) -> tuple[int, ...]:
        end = self._place + struct_.size
        if end > len(self._description):
            raise BadRecord("the description ends early")
        values = struct_.unpack_from(self._description, self._place)
        self._place = end
        return values

    def array(self, start: int, end: int) -> _Place | None:
        code, axes = self.unpack(_ARRAY)
        if code == _ABSENT:
            return None
        dtype = _known(Dtype, code)
        if axes > MAX_AXES:
            raise BadRecord("too many axes")
        shape = self.unpack(struct.Struct(f"<{axes}I"))
        stop = start + prod(shape) * dtype.size
        if stop > end:
            raise BadRecord("an array is larger than its data")
        return _Place(dtype, shape, start, stop)


def _known(kind: type[E], code: int) -> E:
    try:
        return kind(code)
    except ValueError:
        raise BadRecord(f"{kind.__name__} {code} is unknown") from None
