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

from mlx_worker.kv_disk.payload import ArrayBytes, Dtype, Family, LayerBytes, Payload
from mlx_worker.kv_disk.records import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_DTYPES: Final = {
    getattr(mx, "bool_" if code is Dtype.BOOL else code.name.lower()): code for code in Dtype
}
_OF_CODE: Final = {code: dtype for dtype, code in _DTYPES.items()}

_FAMILIES: Final = {
    KVCache: Family.FULL,
    QuantizedKVCache: Family.QUANTIZED,
    RotatingKVCache: Family.ROTATING,
    ArraysCache: Family.ARRAYS,
}
_KINDS: Final = {
    Family.FULL: Kind.DELTA,
    Family.QUANTIZED: Kind.DELTA,
    Family.ROTATING: Kind.WINDOW,
    Family.ARRAYS: Kind.STATE,
}


class UnfitKv(ValueError):
    """KV that cannot be stored, or bytes that are not of this model's cache."""


def kinds_of(cache: Sequence[Any]) -> frozenset[Kind] | None:
    """Return the kinds of records that this cache needs; None if it cannot be stored.

    Only the classes that this module knows exactly can be stored, not classes derived from them.
    """
    families = [_FAMILIES.get(type(layer)) for layer in _leaves(cache)]
    if sys.byteorder != "little":
        return None
    kinds = [_KINDS[family] for family in families if family is not None]
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
        for layer in _leaves(cache)
    )


@dataclass(frozen=True, slots=True)
class _LayerArrays:
    family: Family
    numbers: tuple[int, ...] = ()
    arrays: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Captured:
    """Parts of a cache that become a record: independent of what the cache does next."""

    layers: tuple[_LayerArrays, ...]
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
    layers = tuple(_captured(layer, kind, start, stop) for layer in _leaves(cache))
    return Captured(
        layers,
        tuple(
            mx.contiguous(array).reshape(-1).view(mx.uint8)
            for layer in layers
            for array in layer.arrays
            if array is not None
        ),
    )


def restore(cache: Sequence[Any], payloads: Sequence[tuple[Kind, Payload]], stop: int) -> None:
    """Fill a new cache of the model with the records of a chain of `stop` tokens.

    Raises UnfitKv, and leaves a cache that must not be used.
    """
    leaves = list(_leaves(cache))
    if any(len(payload) != len(leaves) for _, payload in payloads):
        raise UnfitKv("another number of layers")
    for place, layer in enumerate(leaves):
        family = _FAMILIES.get(type(layer))
        parts = [payload[place] for kind, payload in payloads if family and kind is _KINDS[family]]
        if not parts or family is None or any(part.family is not family for part in parts):
            raise UnfitKv("another class of cache")
        if family is Family.FULL:
            _restore_full(layer, parts, stop)
        elif family is Family.QUANTIZED:
            _restore_quantized(layer, parts, stop)
        elif family is Family.ROTATING:
            _restore_rotating(layer, parts, stop)
        else:
            _restore_arrays(layer, parts)


def _leaves(cache: Sequence[Any]) -> Iterator[Any]:
    for layer in cache:
        if isinstance(layer, CacheList):
            yield from _leaves(layer.caches)
        else:
            yield layer


def _captured(layer: Any, kind: Kind, start: int, stop: int) -> _LayerArrays:
    family = _FAMILIES.get(type(layer))
    if family is None:
        raise UnfitKv(f"{type(layer).__name__} cannot be stored")
    if _KINDS[family] is not kind:
        return _LayerArrays(Family.NONE)
    if family is Family.ARRAYS:
        numbers: tuple[int, ...] = ()
        arrays: tuple[Any, ...] = (*layer.cache, layer.left_padding, layer.lengths)
    elif family is Family.ROTATING:
        numbers = (layer.offset, layer.keep, layer.max_size, layer._idx)  # noqa: SLF001
        arrays = (layer.keys, layer.values)
        if layer.keys is not None and layer.offset != stop:
            raise UnfitKv("the window is of another end")
    else:
        numbers = (layer.group_size, layer.bits) if family is Family.QUANTIZED else ()
        if layer.keys is None:
            return _LayerArrays(family, numbers)
        if layer.offset < stop:
            raise UnfitKv("the cache ends before the chunk")
        held = (
            (*layer.keys, *layer.values)
            if family is Family.QUANTIZED
            else (layer.keys, layer.values)
        )
        arrays = tuple(array[..., start:stop, :] for array in held)
    if any(array is not None and array.dtype not in _DTYPES for array in arrays):
        raise UnfitKv("an array of an unknown type")
    return _LayerArrays(family, tuple(map(int, numbers)), arrays)


def _restore_full(layer: Any, parts: list[LayerBytes], stop: int) -> None:
    arrays = _concatenated(parts, 2, stop)
    if arrays is not None:
        layer.keys, layer.values = arrays
        layer.offset = stop


def _restore_quantized(layer: Any, parts: list[LayerBytes], stop: int) -> None:
    if any(part.numbers != (layer.group_size, layer.bits) for part in parts):
        raise UnfitKv("another quantization")
    arrays = _concatenated(parts, 6, stop)
    if arrays is not None:
        layer.keys, layer.values = tuple(arrays[:3]), tuple(arrays[3:])
        layer.offset = stop


def _restore_rotating(layer: Any, parts: list[LayerBytes], stop: int) -> None:
    (part,) = parts
    if len(part.numbers) != 4 or len(part.arrays) != 2:  # noqa: PLR2004
        raise UnfitKv("no window")
    offset, keep, max_size, place = part.numbers
    arrays = [_array(array) for array in part.arrays if array is not None]
    if not arrays:
        return
    if (
        len(arrays) != 2  # noqa: PLR2004
        or (offset, max_size) != (stop, layer.max_size)
        or any(array.ndim != 4 or not 0 <= place <= array.shape[2] for array in arrays)  # noqa: PLR2004
        or not 0 <= keep <= max_size
    ):
        raise UnfitKv("another window")
    layer.state = (*arrays, offset, keep, max_size, place)


def _restore_arrays(layer: Any, parts: list[LayerBytes]) -> None:
    (part,) = parts
    if len(part.arrays) != len(layer.cache) + 2:
        raise UnfitKv("another number of states")
    *states, left_padding, lengths = [
        None if array is None else _array(array) for array in part.arrays
    ]
    layer.state = (states, left_padding, lengths)


def _concatenated(parts: list[LayerBytes], count: int, stop: int) -> list[Any] | None:
    """Return the arrays of all chunks joined; None for a layer that the model leaves empty."""
    if not any(part.arrays for part in parts):
        return None
    if any(len(part.arrays) != count for part in parts):
        raise UnfitKv("another number of arrays")
    joined = []
    for place in range(count):
        column = [part.arrays[place] for part in parts]
        chunks = [_array(array) for array in column if array is not None]
        if (
            len(chunks) != len(parts)
            or any(chunk.ndim != 4 or chunk.dtype != chunks[0].dtype for chunk in chunks)  # noqa: PLR2004
            or len({(*chunk.shape[:2], chunk.shape[3]) for chunk in chunks}) != 1
            or sum(chunk.shape[2] for chunk in chunks) != stop
        ):
            raise UnfitKv("chunks that do not join")
        joined.append(mx.concatenate(chunks, axis=2))
    return joined


def _array(array: ArrayBytes) -> Any:
    dtype = _OF_CODE[array.dtype]
    if not array.data:
        return mx.zeros(array.shape, dtype)
    elements: Any = memoryview(array.data)
    return mx.array(elements).view(dtype).reshape(array.shape)
