"""Each class of mlx_lm's cache comes back from bytes as it was, to the bit."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from mlx_worker.engine.kv.disk.arrays import (
    Captured,
    UnfitKv,
    capture,
    describe_layers,
    kinds_of,
)
from mlx_worker.engine.kv.disk.forms import forms_of_cache
from mlx_worker.engine.kv.disk.identity import identity_of
from mlx_worker.kv_disk.files.keys import chain
from mlx_worker.kv_disk.files.payload import ArrayBytes, Dtype, LayerBytes, Payload
from mlx_worker.kv_disk.files.records import KV_KINDS, Address, Kind, Record
from tests.engine.kv.disk.restored import restore
from tests.kv_disk.disk_harness import IDENTITY, Disk

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 8
DTYPES = [mx.bfloat16, mx.float16, mx.float32]


def kv_of(tokens: int, dtype: Any, width: int = 64) -> Any:
    return mx.random.normal((1, 2, tokens, width)).astype(dtype)


def new_cache() -> list[Any]:
    """A hybrid of everything that can be stored, one layer of which the model never fills."""
    return [
        KVCache(),
        QuantizedKVCache(group_size=32, bits=4),
        RotatingKVCache(WINDOW, keep=2),
        CacheList(KVCache(), ArraysCache(2)),
        KVCache(),
    ]


def filled(steps: list[int], dtype: Any) -> list[Any]:
    cache = new_cache()
    full, quantized, rotating, (both, arrays), _ = cache
    for step in steps:
        for layer in (full, quantized, rotating):
            layer.update_and_fetch(kv_of(step, dtype), kv_of(step, dtype))
        both.update_and_fetch(kv_of(step, dtype, 5), kv_of(step, dtype, 0))
        arrays[0] = kv_of(3, dtype)
    return cache


def recorded(cache: list[Any], tokens: int, chunk: int) -> list[tuple[Kind, Payload]]:
    captured: list[tuple[Kind, Captured]] = [
        (Kind.DELTA, capture(cache, Kind.DELTA, start, min(tokens, start + chunk)))
        for start in range(0, tokens, chunk)
    ]
    captured += [(kind, capture(cache, kind, 0, tokens)) for kind in (Kind.WINDOW, Kind.STATE)]
    mx.async_eval([list(capture_.views) for _, capture_ in captured])  # type: ignore[no-untyped-call]
    return [(kind, capture_.payload()) for kind, capture_ in captured]


def bits(cache: list[Any]) -> list[Any]:
    """Everything that a cache holds up to its offset, as bytes."""
    found: list[Any] = []
    for layer in cache:
        if isinstance(layer, CacheList):
            found.append(bits(list(layer.caches)))
            continue
        if isinstance(layer, KVCache | QuantizedKVCache):
            held = layer.keys_and_values() if layer.keys is not None else ()
        else:
            held = layer.state
        arrays = [value for _, value in tree_flatten(held)]
        found.append((type(layer).__name__, [exact(value) for value in arrays]))
    return found


def exact(value: Any) -> Any:
    if not isinstance(value, mx.array):
        return value
    view: Any = mx.contiguous(value).reshape(-1).view(mx.uint8)
    return value.dtype, value.shape, bytes(memoryview(view))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from(DTYPES), st.data())
@settings(max_examples=40)
def test_a_cache_comes_back_bit_by_bit(steps: list[int], dtype: Any, data: st.DataObject) -> None:
    tokens = sum(steps)
    cache = filled(steps, dtype)
    chunk = data.draw(st.integers(1, tokens))
    records = recorded(cache, tokens, chunk)
    again = new_cache()
    restore(again, forms_of_cache(filled([3], dtype), 3), records, tokens, chunk)
    assert bits(again) == bits(cache)
    # What comes next is the same, too.
    for layer, twin in zip(cache[:3], again[:3], strict=True):
        keys = kv_of(1, dtype)
        mine = layer.update_and_fetch(keys, keys)
        theirs = twin.update_and_fetch(keys, keys)
        assert [exact(array) for _, array in tree_flatten(mine)] == [
            exact(array) for _, array in tree_flatten(theirs)
        ]
        assert layer.offset == twin.offset


def test_numbers_that_are_none_and_infinite_keep_their_bits() -> None:
    layer = KVCache()
    odd = mx.array([0x7FC1, 0xFF80, 0x8000, 0x0001], dtype=mx.uint16).view(mx.bfloat16)
    layer.update_and_fetch(odd.reshape(1, 1, 1, 4), odd.reshape(1, 1, 1, 4))
    again = [KVCache()]
    forms = forms_of_cache([layer], 1)
    restore(again, forms, [(Kind.DELTA, capture([layer], Kind.DELTA, 0, 1).payload())], 1)
    assert again[0].keys.view(mx.uint16).reshape(-1).tolist() == [0x7FC1, 0xFF80, 0x8000, 0x0001]


def test_what_was_captured_does_not_change_with_the_cache() -> None:
    cache = filled([4], mx.bfloat16)
    before = bits(cache)
    captured = capture(cache, Kind.WINDOW, 0, 4)
    for _ in range(20):
        cache[2].update_and_fetch(kv_of(1, mx.bfloat16), kv_of(1, mx.bfloat16))
    again = [RotatingKVCache(WINDOW, keep=2)]
    forms = forms_of_cache(filled([4], mx.bfloat16)[2:3], 4)
    restore(again, forms, [(Kind.WINDOW, captured.payload()[2:3])], 4)
    assert bits(again) == before[2:3]


def test_a_cache_comes_back_from_the_disk(disk: Disk) -> None:
    tokens = list(range(300))
    cache = [KVCache()]
    cache[0].update_and_fetch(kv_of(300, mx.bfloat16), kv_of(300, mx.bfloat16))
    store = disk.open()
    links = chain(IDENTITY, tokens)
    for link in links:
        payload = capture(cache, Kind.DELTA, link.start, link.stop).payload()
        address = Address(Kind.DELTA, link.key)
        store.put(Record(address, link.parent, link.start, link.stop, 1.0, payload))
    store.close()
    store = disk.open()
    found = [(Kind.DELTA, store.get(Address(Kind.DELTA, link.key))) for link in links]
    again = [KVCache()]
    forms = forms_of_cache(cache, len(tokens))
    restore(again, forms, [(kind, payload) for kind, payload in found if payload], len(tokens))
    assert bits(again) == bits(cache)
    store.close()


def test_the_kinds_and_the_identity_of_a_cache() -> None:
    assert kinds_of(new_cache()) == KV_KINDS
    assert kinds_of([KVCache()]) == frozenset({Kind.DELTA})
    assert kinds_of([]) is None
    assert kinds_of([KVCache(), ChunkedKVCache(8)]) is None
    assert kinds_of([type("Derived", (KVCache,), {})()]) is None
    assert describe_layers(new_cache()[1:3]) == (
        "QuantizedKVCache group_size=32 bits=4",
        "RotatingKVCache max_size=8 keep=2",
    )


def test_settings_by_which_mlx_computes_otherwise_make_another_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, cache = nn.Linear(4, 4), new_cache()
    versions = {"mlx": "1", "mlx-lm": "1"}
    before = identity_of(model, cache, "weights", versions)
    monkeypatch.setenv("MLX_WORKER_KV", "/kv")
    assert identity_of(model, cache, "weights", versions) == before
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    assert identity_of(model, cache, "weights", versions).digest != before.digest


def without_a_chunk(records: list[tuple[Kind, Payload]]) -> list[tuple[Kind, Payload]]:
    return records[1:]


def without_the_window(records: list[tuple[Kind, Payload]]) -> list[tuple[Kind, Payload]]:
    return [(kind, payload) for kind, payload in records if kind is not Kind.WINDOW]


def without_a_layer(records: list[tuple[Kind, Payload]]) -> list[tuple[Kind, Payload]]:
    return [(kind, payload[1:]) for kind, payload in records]


def with_layers_exchanged(records: list[tuple[Kind, Payload]]) -> list[tuple[Kind, Payload]]:
    return [(kind, (payload[1], payload[0], *payload[2:])) for kind, payload in records]


def with_another_type_in_one_chunk(
    records: list[tuple[Kind, Payload]],
) -> list[tuple[Kind, Payload]]:
    other = filled([9], mx.float16)
    return [(Kind.DELTA, capture(other, Kind.DELTA, 0, 4).payload()), *records[1:]]


def changed(
    kind: Kind, layer: int, change: Callable[[LayerBytes], LayerBytes]
) -> Callable[[list[tuple[Kind, Payload]]], list[tuple[Kind, Payload]]]:
    """The same records, but for one layer of one kind."""

    def spoil(records: list[tuple[Kind, Payload]]) -> list[tuple[Kind, Payload]]:
        return [
            (of, (*payload[:layer], change(payload[layer]), *payload[layer + 1 :]))
            if of is kind
            else (of, payload)
            for of, payload in records
        ]

    return spoil


def with_shape(*shape: int | None) -> Callable[[LayerBytes], LayerBytes]:
    """Arrays with axes of these lengths, as many elements and bytes as that takes; None: as is."""

    def reshape(array: ArrayBytes | None) -> ArrayBytes | None:
        if array is None:
            return None
        axes = tuple(
            old if new is None else new for old, new in zip(array.shape, shape, strict=True)
        )
        return ArrayBytes(array.dtype, axes, bytes(prod(axes) * array.dtype.size))

    return lambda layer: replace(layer, arrays=tuple(map(reshape, layer.arrays)))


def with_numbers(*numbers: int | None) -> Callable[[LayerBytes], LayerBytes]:
    """Other numbers of a layer; None: as is."""
    return lambda layer: replace(
        layer,
        numbers=tuple(
            old if new is None else new for old, new in zip(layer.numbers, numbers, strict=True)
        ),
    )


def as_float16(layer: LayerBytes) -> LayerBytes:
    return replace(
        layer, arrays=tuple(array and replace(array, dtype=Dtype.FLOAT16) for array in layer.arrays)
    )


def without_arrays(layer: LayerBytes) -> LayerBytes:
    return replace(layer, arrays=tuple(None for _ in layer.arrays))


ROW = ArrayBytes(Dtype.BFLOAT16, (1, 2, 9, 4), bytes(2 * 9 * 4 * 2))


def with_a_row(layer: LayerBytes) -> LayerBytes:
    return replace(layer, arrays=(ROW, *layer.arrays[1:]))


DAMAGE = {
    "more heads": changed(Kind.DELTA, 0, with_shape(None, 3, None, None)),
    "wider heads": changed(Kind.DELTA, 0, with_shape(None, None, None, 65)),
    "two rows": changed(Kind.DELTA, 0, with_shape(2, None, None, None)),
    "no tokens": changed(Kind.DELTA, 0, with_shape(None, None, 0, None)),
    "more tokens": changed(Kind.DELTA, 0, with_shape(None, None, 400, None)),
    "another type": changed(Kind.DELTA, 0, as_float16),
    "no keys": changed(Kind.DELTA, 0, without_arrays),
    "other bits": changed(Kind.DELTA, 1, with_numbers(None, 8)),
    "a layer that the model leaves empty": changed(
        Kind.DELTA, 5, lambda layer: replace(layer, arrays=(ROW, ROW))
    ),
    "a short window": changed(Kind.WINDOW, 2, with_shape(None, None, WINDOW - 1, None)),
    "a window of more heads": changed(Kind.WINDOW, 2, with_shape(None, 3, None, None)),
    "another window's type": changed(Kind.WINDOW, 2, as_float16),
    "a window of another end": changed(Kind.WINDOW, 2, with_numbers(10, None, None, None)),
    "a window of another size": changed(Kind.WINDOW, 2, with_numbers(None, None, 9, None)),
    "a window that keeps more": changed(Kind.WINDOW, 2, with_numbers(None, 3, None, None)),
    "a place outside the window": changed(Kind.WINDOW, 2, with_numbers(None, None, None, 99)),
    "no window": changed(Kind.WINDOW, 2, without_arrays),
    "another state": changed(Kind.STATE, 4, with_a_row),
    "another state's type": changed(Kind.STATE, 4, as_float16),
    "no state": changed(Kind.STATE, 4, without_arrays),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_records_of_another_shape_are_refused(name: str) -> None:
    cache = filled([9], mx.bfloat16)
    records = recorded(cache, 9, 9)
    restore(new_cache(), forms_of_cache(cache, 9), records, 9, 9)  # what is not changed is right
    with pytest.raises(UnfitKv):
        restore(new_cache(), forms_of_cache(cache, 9), DAMAGE[name](records), 9, 9)


@pytest.mark.parametrize(
    "spoil",
    [
        without_a_chunk,
        without_the_window,
        without_a_layer,
        with_layers_exchanged,
        with_another_type_in_one_chunk,
    ],
)
def test_records_that_do_not_fit_the_model_are_refused(spoil: Any) -> None:
    records = recorded(filled([9], mx.bfloat16), 9, 4)
    with pytest.raises(UnfitKv):
        restore(new_cache(), forms_of_cache(filled([9], mx.bfloat16), 9), spoil(records), 9, 4)


def test_what_the_cache_does_not_hold_is_not_captured() -> None:
    cache = filled([9], mx.bfloat16)
    with pytest.raises(UnfitKv):
        capture(cache, Kind.DELTA, 4, 10)
    with pytest.raises(UnfitKv):
        capture(cache, Kind.WINDOW, 0, 8)


def test_no_bytes_are_copied_but_those_of_the_chunk() -> None:
    payload = capture(filled([9], mx.bfloat16), Kind.DELTA, 2, 5).payload()
    sizes = [len(array.data) for array in payload[0].arrays if isinstance(array, ArrayBytes)]
    assert sizes == [2 * 3 * 64 * 2] * 2
