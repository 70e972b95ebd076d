"""What the arrays of each layer's cache look like in this model: what no record may differ from.

A checksum finds damage. A record that was written wrongly, or put there by another program, has a
right checksum: a record is believed only where types and shapes are those of the model. [child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.engine.kv.disk.arrays import LayerArrays, UnfitKv, capture, dtype_of, kinds_of
from mlx_worker.kv_disk.files.payload import LayerFamily

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.kv_disk.files.payload import ArrayBytes, Dtype, LayerBytes

PROBE: Final = 16
"""Tokens that are given to the model: more than any state counts one by one."""

TOKEN_AXIS: Final = 2


@dataclass(frozen=True, slots=True)
class ArrayForm:
    """The type and the shape of an array; where keys and values have their tokens, any number."""

    dtype: Dtype
    shape: tuple[int, ...]

    def fits(self, array: ArrayBytes, tokens: int | None) -> bool:
        """Return True if an array is of this form; `tokens` None: the array has no axis of them."""
        shape = self.shape
        if tokens is not None:
            shape = (*shape[:TOKEN_AXIS], tokens, *shape[TOKEN_AXIS + 1 :])
        return array.dtype is self.dtype and array.shape == shape


@dataclass(frozen=True, slots=True)
class LayerForm:
    """What the record of a layer has to be. `arrays` is empty where the model stores nothing."""

    family: LayerFamily
    numbers: tuple[int, ...]
    arrays: tuple[ArrayForm | None, ...]

    def check(self, layer: LayerBytes, start: int, stop: int) -> None:
        """Raise UnfitKv if the record of tokens `start` to `stop` is none of this layer's cache."""
        if layer.family is not self.family or len(layer.arrays) != len(self.arrays):
            raise UnfitKv("another class of cache")
        if self.family is LayerFamily.ROTATING:
            tokens: int | None = self._window(layer, stop)
        elif layer.numbers != self.numbers:
            raise UnfitKv("other numbers of a cache")
        else:
            tokens = None if self.family is LayerFamily.ARRAYS else stop - start
        for form, array in zip(self.arrays, layer.arrays, strict=True):
            if (form is None) != (array is None):
                raise UnfitKv("an array too few, or too many")
            if form is not None and array is not None and not form.fits(array, tokens):
                raise UnfitKv("an array of another type or shape")

    def _window(self, layer: LayerBytes, stop: int) -> int:
        """Return how many tokens the arrays of a window have. Raises UnfitKv."""
        if len(layer.numbers) != len(self.numbers):
            raise UnfitKv("no window")
        offset, keep, max_size, place = layer.numbers
        _, own_keep, own_size, _ = self.numbers
        held = {array.shape[TOKEN_AXIS] for array in layer.arrays if array and len(array.shape) > 2}  # noqa: PLR2004
        if not held and not any(layer.arrays):
            return 0  # a layer that the model leaves empty
        if (
            (offset, max_size) != (stop, own_size)
            or keep not in (0, own_keep)
            or len(held) != 1
            or not min(stop, max_size) <= min(held)
            or not 0 <= place <= min(held)
        ):
            raise UnfitKv("another window")
        return min(held)


def forms_of(model: Any) -> tuple[LayerForm, ...]:
    """Return the form of each layer's cache; on the thread that owns mlx.

    The shapes are known before anything is computed, and nothing is.
    """
    cache = make_prompt_cache(model)
    model(mx.array([[0] * PROBE]), cache=cache)
    return forms_of_cache(cache, PROBE)


def forms_of_cache(cache: Sequence[Any], tokens: int) -> tuple[LayerForm, ...]:
    """Return the form of each layer's cache, by a cache that holds this number of tokens."""
    captured = [capture(cache, kind, 0, tokens).layers for kind in sorted(kinds_of(cache) or ())]
    return tuple(
        next(_form(layer) for layer in layers if layer.family is not LayerFamily.NONE)
        for layers in zip(*captured, strict=True)
    )


def _form(layer: LayerArrays) -> LayerForm:
    arrays = tuple(
        None if array is None else ArrayForm(dtype_of(array), tuple(array.shape))
        for array in layer.arrays
    )
    return LayerForm(layer.family, layer.numbers, arrays)
