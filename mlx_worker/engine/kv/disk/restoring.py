"""A new cache of the model that is filled with the records of a chain, piece by piece.

A cache of gigabytes takes long to fill: records are added as they come, in any order, and the
layers are joined one after the other, so that decoding goes on in between. All calls belong to the
thread that owns mlx. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_worker.engine.kv.disk.arrays import KINDS, UnfitKv, array_of, leaves_of
from mlx_worker.engine.kv.disk.forms import TOKEN_AXIS
from mlx_worker.kv_disk.files.payload import LayerFamily
from mlx_worker.kv_disk.files.records import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.kv.disk.forms import LayerForm
    from mlx_worker.kv_disk.files.payload import LayerBytes, Payload


class Restoration:
    """Fill `cache`, a new one of the model, whose layers have these `forms`.

    The keys and values of the first `start` tokens come from `base`, a cache of the same model that
    has at least these tokens; those of later tokens come from records.
    """

    def __init__(
        self,
        cache: list[Any],
        forms: Sequence[LayerForm],
        *,
        base: Sequence[Any] = (),
        start: int = 0,
    ) -> None:
        self.cache = cache
        self._leaves = list(leaves_of(cache))
        self._forms = forms
        self._base = list(leaves_of(base))
        self._start = start
        # Of each layer: the arrays of its chunks, by the token at which a chunk begins.
        self._chunks: list[dict[int, tuple[int, list[Any]]]] = [{} for _ in self._leaves]
        self._ends: set[int] = set()
        """The layers whose window or state was added."""
        self._joined = 0

    def add(self, kind: Kind, start: int, stop: int, payload: Payload) -> None:
        """Add the record of tokens `start` to `stop`.

        Raises UnfitKv for a record of another cache, before anything is changed.
        """
        if len(payload) != len(self._forms):
            raise UnfitKv("another number of layers")
        mine = [place for place, form in enumerate(self._forms) if KINDS[form.family] is kind]
        for place in mine:
            self._forms[place].check(payload[place], start, stop)
        for place in mine:
            self._add(place, payload[place], start, stop)
        if kind is not Kind.DELTA:
            self._ends.update(mine)

    def join(self, stop: int, max_bytes: int) -> bool:
        """Join the chunks of the next layers, of about `max_bytes` bytes; True after the last one.

        `stop` is the end of the last chunk. Raises UnfitKv where a record is missing.
        """
        joined: list[Any] = []
        nbytes = 0
        while self._joined < len(self._leaves) and nbytes < max_bytes:
            arrays = self._join(self._joined, stop)
            nbytes += sum(array.nbytes for array in arrays)
            joined += arrays
            self._joined += 1
        mx.async_eval(joined)  # type: ignore[no-untyped-call]
        return self._joined == len(self._leaves)

    # --- inside ---

    def _add(self, place: int, record: LayerBytes, start: int, stop: int) -> None:
        leaf = self._leaves[place]
        arrays = [None if array is None else array_of(array) for array in record.arrays]
        match record.family:
            case LayerFamily.FULL | LayerFamily.QUANTIZED:
                self._chunks[place][start] = stop, arrays
            case LayerFamily.ROTATING if arrays[0] is not None:
                leaf.state = (*arrays, *record.numbers)
            case LayerFamily.ARRAYS:
                *states, left_padding, lengths = arrays
                leaf.state = (states, left_padding, lengths)

    def _join(self, place: int, stop: int) -> list[Any]:
        """Join the chunks of one layer, and let go of them; return the layer's arrays."""
        family, leaf = self._forms[place].family, self._leaves[place]
        if KINDS[family] is not Kind.DELTA:
            if place not in self._ends:
                raise UnfitKv("a window or a state is missing")
            return []
        joined = [mx.concatenate(column, axis=TOKEN_AXIS) for column in self._columns(place, stop)]
        if not joined:
            return []  # a layer that the model leaves empty
        if family is LayerFamily.FULL:
            leaf.keys, leaf.values = joined
        else:
            middle = len(joined) // 2
            leaf.keys, leaf.values = tuple(joined[:middle]), tuple(joined[middle:])
        leaf.offset = stop
        return joined

    def _columns(self, place: int, stop: int) -> list[list[Any]]:
        """Return what is to be joined, in the order of tokens, for each array of a layer."""
        form = self._forms[place]
        chunks, self._chunks[place] = self._chunks[place], {}
        pieces: list[list[Any]] = []
        if self._start:
            held = _arrays_of(self._base[place], form.family)
            pieces.append([array[..., : self._start, :] for array in held])
        reached = self._start
        while reached < stop:
            if reached not in chunks:
                raise UnfitKv("a chunk is missing")
            reached, arrays = chunks[reached]
            pieces.append(arrays)
        return [[piece[number] for piece in pieces] for number in range(len(form.arrays))]


def _arrays_of(leaf: Any, family: LayerFamily) -> list[Any]:
    """Return the arrays of keys and of values of a layer that can be cut; none of an empty one."""
    if leaf.keys is None:
        return []
    if family is LayerFamily.QUANTIZED:
        return [*leaf.keys, *leaf.values]
    return [leaf.keys, leaf.values]
