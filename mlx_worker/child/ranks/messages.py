"""What a rank tells rank 0 until the model is loaded.

[child]
"""

from __future__ import annotations

import msgspec

from mlx_worker.wire.base import WireMessage
from mlx_worker.wire.framing import Frames
from mlx_worker.wire.kv_cost import KvCost


class Join(WireMessage, frozen=True):
    """Join the ranks; `ring` is the address and port at which the rank waits for its neighbour.

    `versions` are those of the code that the rank computes with, `files` have a digest of each file
    of its model folder.
    """

    rank: int
    secret: str
    ring: str
    versions: dict[str, str]
    files: dict[str, str] = msgspec.field(default_factory=dict)


class PartProgress(WireMessage, frozen=True):
    """Tell how many bytes of the rank's part are in memory, of how many."""

    done: int
    total: int


class PartLoaded(WireMessage, frozen=True):
    """Tell that the rank's part is in memory, and whether its KV can be cut at any token.

    `weights` names the part as `Loaded.weights` names a model; `weight_bytes` are in memory.
    `kv_room` is how many bytes the part leaves for KV on the rank's host; None: the front knows.
    """

    is_cuttable: bool
    weights: str
    weight_bytes: int
    kv_room: int | None = None


class PartMeasured(WireMessage, frozen=True):
    """Tell what the KV of a row costs on the rank."""

    kv: KvCost


class Confirmed(WireMessage, frozen=True):
    """Tell that the rank has done what came before, and that its device has raised no error."""


class PartFailed(WireMessage, frozen=True):
    """Tell that the rank cannot load its part; `permanent`: another try would fail the same way."""

    reason: str
    permanent: bool


FromRank = Join | PartProgress | PartLoaded | PartMeasured | Confirmed | PartFailed


def frames_from_rank() -> Frames[FromRank]:
    """Return a decoder of frames from a rank."""
    return Frames(msgspec.msgpack.Decoder(FromRank))
