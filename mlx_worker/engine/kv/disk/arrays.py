"""Between the caches of mlx_lm and the bytes of records; the only module here that imports mlx.

Bytes are exact: arrays are viewed as unsigned bytes, never converted. Calls that make arrays or
read them belong to the thread that owns mlx. [child]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from mlx_worker.kv_disk.files.payload import ArrayBytes, Dtype, LayerBytes, LayerFamily, Payload
from mlx_worker.kv_disk.files.records import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_DTYPES: Final = {
    getattr(mx, "bool_" if code is Dtype.BOOL else code.name.lower()): code for code in Dtype
}
_OF_CODE: Final = {code: dtype for dtype, code in _DTYPES.items()}

_FAMILIES: Final = {
    KVCache: LayerFamily.FULL,
    QuantizedKVCache: LayerFamily.QUANTIZED,
    RotatingKVCache: LayerFamily.ROTATING,
    ArraysCache: LayerFamily.ARRAYS,
}
KINDS: Final = {
    LayerFamily.FULL: Kind.DELTA,
    LayerFamily.QUANTIZED: Kind.DELTA,
    LayerFamily.ROTATING: Kind.WINDOW,
    LayerFamily.ARRAYS: Kind.STATE,
}
"""In which kind of record a layer's cache is stored."""


class UnfitKv(ValueError):
    """KV that cannot be stored, or bytes that are not of this model's cache."""


def kinds_of(cache: Sequence[Any]) -> frozenset[Kind] | None:
    """Return the kinds of records that this cache needs; None if it cannot be stored.

    Only the classes that this module knows exactly can be stored, not classes derived from them.
    """
    families = [_FAMILIES.get(type(layer)) for layer in leaves_of(cache)]
    if sys.byteorder != "little":
        return None
    kinds = [KINDS[family] for family in families if family is not None]
    return frozenset(kinds) if kinds and len(kinds) == len(families) else None


def describe_layers(cache: Sequence[Any]) -> tuple[str, ...]:
    """Return the class and the fixed numbers of each layer's cache, for the identity."""
    names = ("max_size", "keep", "group_size", "bits")
    return tuple(
        " ".join(
            [
                type(layer).__name__,
                *(f"{n}={getattr(layer, n)}" for n in names if hasattr(layer, n)),
            ]
        )
        for layer in leaves_of(cache)
    )


@dataclass(frozen=True, slots=True)
class LayerArrays:
    """The arrays of one layer that become part of a record, None where the layer has none."""

    family: LayerFamily
    numbers: tuple[int, ...] = ()
    arrays: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Captured:
    """Parts of a cache that become a record: independent of what the cache does next."""

    layers: tuple[LayerArrays, ...]
    views: tuple[Any, ...]
    """The bytes of all arrays, lazily: to be evaluated with `mx.async_eval`."""

    def payload(self) -> Payload:
        """Return the bytes; wait for arrays that are not evaluated yet."""
        return self.assemble([bytes(memoryview(view)) for view in self.views])

    def assemble(self, parts: Iterable[bytes]) -> Payload:
        """Return the payload whose arrays have these bytes, one part for each view."""
        data = iter(parts)
        return tuple(
            LayerBytes(
                layer.family,
                layer.numbers,
                tuple(
                    None
                    if array is None
                    else ArrayBytes(_DTYPES[array.dtype], tuple(array.shape), next(data))
                    for array in layer.arrays
                ),
            )
            for layer in self.layers
        )


def capture(cache: Sequence[Any], kind: Kind, start: int, stop: int) -> Captured:
    """Return the arrays of one kind: of tokens `start` to `stop` of layers that can be cut.

    Windows and states are those at the cache's end, which has to be `stop`. Raises UnfitKv.
    """
    layers = tuple(_captured(layer, kind, start, stop) for layer in leaves_of(cache))
    return Captured(
        layers,
        tuple(
            mx.contiguous(array).reshape(-1).view(mx.uint8)
            for layer in layers
            for array in layer.arrays
            if array is not None
        ),
    )


def leaves_of(cache: Sequence[Any]) -> Iterator[Any]:
    """Return the caches of all layers, those within lists one by one."""
    for layer in cache:
        if isinstance(layer, CacheList):
            yield from leaves_of(layer.caches)
        else:
            yield layer


def dtype_of(array: Any) -> Dtype:
    """Return the type of an array's elements, as records name the type."""
    return _DTYPES[array.dtype]


def array_of(array: ArrayBytes) -> Any:
    """Return an array with these bytes: a copy."""
    dtype = _OF_CODE[array.dtype]
    if not array.data:
        return mx.zeros(array.shape, dtype)
    elements: Any = memoryview(array.data)
    return mx.array(elements).view(dtype).reshape(array.shape)


def _captured(layer: Any, kind: Kind, start: int, stop: int) -> LayerArrays:
    family = _FAMILIES.get(type(layer))
    if family is None:
        raise UnfitKv(f"{type(layer).__name__} cannot be stored")
    if KINDS[family] is not kind:
        return LayerArrays(LayerFamily.NONE)
    if family is LayerFamily.ARRAYS:
        numbers: tuple[int, ...] = ()
        arrays: tuple[Any, ...] = (*layer.cache, layer.left_padding, layer.lengths)
    elif family is LayerFamily.ROTATING:
        numbers = (layer.offset, layer.keep, layer.max_size, layer._idx)  # noqa: SLF001
        arrays = (layer.keys, layer.values)
        if layer.keys is not None and layer.offset != stop:
            raise UnfitKv("the window is of another end")
    else:
        numbers = (layer.group_size, layer.bits) if family is LayerFamily.QUANTIZED else ()
        if layer.keys is None:
            return LayerArrays(family, numbers)
        if layer.offset < stop:
            raise UnfitKv("the cache ends before the chunk")
        held = (
            (*layer.keys, *layer.values)
            if family is LayerFamily.QUANTIZED
            else (layer.keys, layer.values)
        )
        arrays = tuple(array[..., start:stop, :] for array in held)
    if any(array is not None and array.dtype not in _DTYPES for array in arrays):
        raise UnfitKv("an array of an unknown type")
    return LayerArrays(family, tuple(map(int, numbers)), arrays)
