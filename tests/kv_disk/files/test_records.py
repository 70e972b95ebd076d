"""What is encoded is decoded to the byte; anything else is refused and never believed."""

from __future__ import annotations

import struct
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_worker.kv_disk.files.payload import (
    MAX_LAYERS,
    ArrayBytes,
    BadRecord,
    Dtype,
    LayerBytes,
    LayerFamily,
    Payload,
    attach,
    serialize,
)
from mlx_worker.kv_disk.files.records import (
    FORMAT,
    HEADER_BYTES,
    MARK_OFFSET,
    Address,
    Kind,
    Mark,
    Record,
    decode_body,
    decode_header,
    encode,
)
from tests.kv_disk.disk_harness import IDENTITY, OTHER, same, single


@st.composite
def arrays(draw: st.DrawFn) -> ArrayBytes:
    dtype = draw(st.sampled_from(Dtype))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    size = prod(shape) * dtype.size
    return ArrayBytes(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


layers = st.builds(
    LayerBytes,
    st.sampled_from(LayerFamily),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8).map(tuple),
    st.lists(st.none() | arrays(), max_size=6).map(tuple),
)
payloads = st.lists(layers, max_size=4).map(tuple)
keys = st.binary(min_size=32, max_size=32)
records = st.builds(
    Record,
    st.builds(Address, st.sampled_from(Kind), keys),
    keys,
    st.integers(0, 1000),
    st.integers(1001, 2**31 - 1),
    st.integers(0, 10**6).map(float),
    payloads,
)


def decoded(data: bytes, identity: bytes = IDENTITY.digest) -> Record:
    """The record, if all of it can be believed."""
    header = decode_header(data[:HEADER_BYTES], identity)
    payload = decode_body(header, memoryview(data)[HEADER_BYTES:])
    return Record(header.address, header.parent, header.start, header.stop, header.seconds, payload)


@settings(max_examples=50)
@given(records.filter(lambda record: record.seconds < 4000))
def test_a_record_is_read_back_to_the_byte(record: Record) -> None:
    found = decoded(bytes(encode(IDENTITY.digest, record)))
    assert same(found.payload, record.payload)
    assert (found.address, found.parent, found.start, found.stop, found.seconds) == (
        record.address,
        record.parent,
        record.start,
        record.stop,
        record.seconds,
    )


@settings(max_examples=50)
@given(records, st.data())
def test_a_record_with_any_bit_flipped_is_refused(record: Record, data: st.DataObject) -> None:
    content = bytearray(bytes(encode(IDENTITY.digest, record)))
    place = data.draw(
        st.integers(0, len(content) - 1).filter(
            lambda place: place < MARK_OFFSET or place >= HEADER_BYTES
        )
    )
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadRecord):
        decoded(bytes(content))


@settings(max_examples=50)
@given(records, st.data())
def test_a_record_cut_anywhere_is_refused(record: Record, data: st.DataObject) -> None:
    content = bytes(encode(IDENTITY.digest, record))
    with pytest.raises(BadRecord):
        decoded(content[: data.draw(st.integers(0, len(content) - 1))])


@given(st.binary(max_size=400), payloads)
def test_any_bytes_are_a_payload_or_refused(noise: bytes, payload: Payload) -> None:
    description, parts = serialize(payload)
    data = b"".join(parts)
    for text in (noise, description + noise[:3], description[: len(noise)], noise + description):
        try:
            found = attach(text, memoryview(data))
        except BadRecord:
            continue
        text_again, parts = serialize(found)
        assert (text_again, b"".join(parts)) == (text, data)


def test_a_description_of_too_much_is_refused_before_anything_is_made() -> None:
    layer = struct.pack("<BBB", LayerFamily.FULL, 0, 1)
    for text in (
        struct.pack("<H", MAX_LAYERS + 1),
        struct.pack("<H", 1) + layer + struct.pack("<BB4I", Dtype.INT64, 4, *([2**32 - 1] * 4)),
        struct.pack("<H", 1) + layer + struct.pack("<BB", Dtype.INT64, 200),
        struct.pack("<H", 1) + struct.pack("<BBB", LayerFamily.FULL, 255, 0),
    ):
        with pytest.raises(BadRecord):
            attach(text, memoryview(b""))


def test_a_record_of_other_weights_or_of_the_future_is_refused() -> None:
    content = bytes(encode(IDENTITY.digest, single(1)))
    with pytest.raises(BadRecord, match="another identity"):
        decoded(content, OTHER.digest)
    future = bytearray(content)
    struct.pack_into("<H", future, 8, FORMAT + 1)
    with pytest.raises(BadRecord):
        decoded(bytes(future))


def test_any_mark_that_is_unknown_means_deleted() -> None:
    content = bytearray(bytes(encode(IDENTITY.digest, single(1))))
    known = {0: Mark.LIVE, 1: Mark.SUSPECT, 2: Mark.TRIED}
    for byte in range(256):
        content[MARK_OFFSET] = byte
        header = decode_header(bytes(content[:HEADER_BYTES]), IDENTITY.digest)
        assert header.mark is known.get(byte, Mark.DELETED)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 4), (-1, 3), (0, 2**31)])
def test_an_impossible_range_is_not_encoded(start: int, stop: int) -> None:
    record = single(1)
    with pytest.raises(BadRecord):
        encode(
            IDENTITY.digest,
            Record(record.address, record.parent, start, stop, 1.0, record.payload),
        )


def test_a_record_is_written_from_its_arrays_without_a_copy() -> None:
    record = single(1)
    (data,) = (array.data for layer in record.payload for array in layer.arrays if array)
    assert any(part is data for part in encode(IDENTITY.digest, record).parts)


def test_an_array_of_another_size_than_its_shape_is_refused() -> None:
    one = ArrayBytes(Dtype.UINT8, (3,), b"12")
    other = ArrayBytes(Dtype.UINT8, (1,), b"34")
    with pytest.raises(BadRecord):
        serialize((LayerBytes(LayerFamily.FULL, (), (one, other)),))
