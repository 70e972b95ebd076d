"""The operations of rank 0 on its batch and on KV, which every other rank carries out in order.

Rank 0 decides everything: which rows run, with which KV, and which token a row has next. The other
ranks have their part of the weights and of the KV, and repeat these operations. Tokens are not in
the log: rank 0 shares them in a collective, so that every rank may begin a step before the tokens
of the step before are known. KV that belongs to no row of the batch has a handle, a number that
rank 0 gives; handle 0 is no KV. [child]
"""

from __future__ import annotations

import msgspec

from mlx_worker.wire.framing import Frames


class Operation(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Give an operation its tag; never sent itself."""


class Begin(Operation, frozen=True):
    """Form the ring of these addresses, in the order of the ranks, and load the model."""

    ring: list[str]


class Insert(Operation, frozen=True):
    """Put a row into the batch, which gets the next number of the batch.

    The row reads `segments` behind the KV of `kv`, which is that of `tokens`, and generates
    `max_tokens` at most; a token in `ends` ends the row. `is_scored`: the logits of the prompt are
    computed too.
    """

    segments: list[list[int]]
    max_tokens: int
    kv: int
    tokens: list[int]
    ends: list[int]
    is_scored: bool


class Step(Operation, frozen=True):
    """Decode a token of each decoding row, then read a chunk of each prompt.

    Rows that end in this step leave their KV under the handles from `first` on, in their order.
    """

    chunk: int
    first: int


class Remove(Operation, frozen=True):
    """Take rows out of the batch; their KV is freed."""

    uids: list[int]


class Extract(Operation, frozen=True):
    """Copy the KV of a row of the batch to a handle."""

    uid: int
    kv: int


class Copy(Operation, frozen=True):
    """Copy the KV of the handle `source`, without its last `surplus` tokens, to another handle."""

    source: int
    surplus: int
    kv: int


class Free(Operation, frozen=True):
    """Free the KV of these handles."""

    kv: list[int]


class ClearMemory(Operation, frozen=True):
    """Give unused memory back to the operating system."""


class MeasureKv(Operation, frozen=True):
    """Read one token as rank 0 does to measure the cost of a row: a forward is for all ranks."""


class Confirm(Operation, frozen=True):
    """Confirm, as every step that decodes is confirmed: earlier work is done, without an error."""


class Compare(Operation, frozen=True):
    """Compare the batch and the handles with those of rank 0, by a digest."""

    digest: bytes


AnyOperation = (
    Begin
    | Insert
    | Step
    | Remove
    | Extract
    | Copy
    | Free
    | ClearMemory
    | MeasureKv
    | Confirm
    | Compare
)


class BadOperation(Exception):
    """Report an operation that cannot be carried out."""


def operation_frames() -> Frames[AnyOperation]:
    """Return a decoder of frames from rank 0."""
    return Frames(msgspec.msgpack.Decoder(AnyOperation))
