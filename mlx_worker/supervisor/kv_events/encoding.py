"""The bytes of KV events, as vLLM 0.24 and later publishes them.

A batch is an array of time, events and rank; each event is a map whose `type` is the name of its
class. Fields without a default are always written. [front]
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.kv_blocks import StoredBlock

MEDIUM: Final = "GPU"
"""vLLM's name of the memory in which KV is used: here that of the model's process."""

RANK: Final = 0
"""A model has one process, so the events are of the first data-parallel rank."""

SEQUENCE_BYTES: Final = 8

END_OF_REPLAY: Final = (-1).to_bytes(SEQUENCE_BYTES, "big", signed=True)
"""Follows the last batch of a replay, in place of a sequence number, with an empty payload."""


class _Event(msgspec.Struct, frozen=True, tag=True):
    """The base of events."""


class BlockStored(_Event, frozen=True):
    """Blocks, each the child of the one before, that can be reused from now on."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = MEDIUM
    lora_name: str | None = None


class BlockRemoved(_Event, frozen=True):
    """Blocks that are gone."""

    block_hashes: list[int]
    medium: str | None = MEDIUM


class AllBlocksCleared(_Event, frozen=True):
    """The end of all blocks."""


_encoder = msgspec.msgpack.Encoder()


def stored(block: StoredBlock) -> msgspec.Raw:
    """Return the event that a block was stored."""
    tokens = array("I")
    tokens.frombytes(block.tokens)
    event = BlockStored([block.hash], block.parent, tokens.tolist(), CHUNK_TOKENS)
    return msgspec.Raw(_encoder.encode(event))


def removed(hashes: Sequence[int]) -> msgspec.Raw:
    """Return the event that blocks were removed."""
    return msgspec.Raw(_encoder.encode(BlockRemoved(list(hashes))))


CLEARED: Final = msgspec.Raw(_encoder.encode(AllBlocksCleared()))


def batch(at: float, events: Sequence[msgspec.Raw]) -> bytes:
    """Return the payload of a message; `at` is in seconds since the epoch."""
    return _encoder.encode((at, events, RANK))


def sequence_bytes(sequence: int) -> bytes:
    """Return the frame of a sequence number."""
    return sequence.to_bytes(SEQUENCE_BYTES, "big")
