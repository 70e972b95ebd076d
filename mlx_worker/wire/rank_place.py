"""The place of a process among those that compute one model together.

[both]
"""

from __future__ import annotations

from typing import Literal

from mlx_worker.wire.base import WirePart

Split = Literal["tensor", "pipeline"]
"""What a rank has of a model: some heads of each layer, or some layers."""


class RankPlace(WirePart, frozen=True):
    """The place of a process among the ranks of its model.

    `host` is the address of this rank. `leader` is the address and port at which rank 0 waits for
    the others; "" for rank 0 itself, which chooses the port. A rank names the `secret` to join.
    """

    rank: int
    ranks: int
    split: Split
    host: str
    secret: str
    leader: str = ""
