"""What the KV of one row costs: measured in the child, used for placement in the front.

[both]
"""

from __future__ import annotations

from typing import Final

from mlx_worker.wire.base import WirePart

BLOCK: Final = 256
"""Tokens in which mlx_lm grows the KV of a batch."""


class KvGrowth(WirePart, frozen=True, array_like=True):
    """Describe KV that grows by `per_token` bytes with each token, up to `until` tokens.

    `until` None: KV grows with every token.
    """

    per_token: int
    until: int | None = None


class KvCost(WirePart, frozen=True, array_like=True):
    """Describe the KV of one row: `fixed` bytes, and what grows."""

    fixed: int = 0
    growing: list[KvGrowth] = []

    def nbytes(self, tokens: int) -> int:
        """Return the bytes of a row of this many tokens."""
        return self.fixed + sum(
            growth.per_token * (tokens if growth.until is None else min(tokens, growth.until))
            for growth in self.growing
        )

    def times(self, count: int) -> KvCost:
        """Return the cost of the same row in `count` processes together."""
        growing = [KvGrowth(part.per_token * count, part.until) for part in self.growing]
        return KvCost(self.fixed * count, growing)

    def beside(self, other: KvCost) -> KvCost:
        """Return the cost of a row whose KV two models hold."""
        return KvCost(self.fixed + other.fixed, [*self.growing, *other.growing])

    def batch_nbytes(self, rows: int, longest: int) -> int:
        """Return the bytes of a batch of rows.

        mlx_lm pads a batch to its longest row, and grows the batch in blocks.
        """
        return rows * self.nbytes(-(-longest // BLOCK) * BLOCK)
