"""The place of a process among those that compute one model together.

[both]
"""

from __future__ import annotations

from typing import Final, Literal

from mlx_worker.wire.base import WireMessage, WirePart

Split = Literal["tensor", "pipeline"]
"""What a rank has of a model: some heads of each layer, or some layers."""

Transport = Literal["ring", "jaccl"]
"""How ranks exchange what they compute: a backend of `mlx.distributed`."""

SILENCE: Final = 20.0
"""Seconds without a byte from the front, which pings every second, after which the front is gone.
Both the keeper of a rank and the rank itself end then."""

UNTIL_SPOKEN: Final = 15
"""How many times as long the front may be silent until its first message to a rank, which imports
its modules until then."""


class HostSettings(WirePart, frozen=True):
    """What a rank on another host than the front's has to apply itself.

    `Load.path` is a path or a name to look up on that host, in `models_dir`; "": the models folder
    that commands have there. `memory_limit` is for the rank's part and its KV: bytes, or a share of
    the machine where it is at most 1; 0: the share that the models of a node have.
    """

    models_dir: str = ""
    memory_limit: float = 0.0


class RankPlace(WirePart, frozen=True):
    """The place of a process among the ranks of its model.

    `host` is the address of this rank. `leader` is the address and port at which rank 0 waits for
    the others; "" for rank 0 itself, which chooses the port. A rank names the `secret` to join.
    `devices` are RDMA devices: one list a rank, with the device towards each rank, None towards
    itself. `settings` None: the rank is on the front's own host.
    """

    rank: int
    ranks: int
    split: Split
    host: str
    secret: str
    leader: str = ""
    transport: Transport = "ring"
    devices: list[list[str | None]] = []
    settings: HostSettings | None = None


class KeepRank(WireMessage, frozen=True):
    """Tell a keeper what to start: the first message on its pipe.

    `address` is that at which other hosts reach the keeper's host; "": the keeper is on the front's
    own host, and its environment is that of the rank. `env` are variables of the rank's model.
    """

    address: str = ""
    env: dict[str, str] = {}
