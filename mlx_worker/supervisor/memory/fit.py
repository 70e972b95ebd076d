"""Whether a model fits in memory, and with which context.

What the node will decide, before it runs: the arithmetic of `policy` for the start of a model, and
that of the engine for its rows. Pure.

[front]
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.supervisor.memory.policy import PROCESS_BYTES, MemoryClaim, kv_budget
from mlx_worker.wire.kv_cost import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.wire.memory_needs import MemoryNeeds

MOST_BLOCKS: Final = 1 << 24
"""Blocks of a context beyond which KV does not bound it: that of windows and states alone."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a model: `rows` at once, each of `context` tokens; None: any length."""

    rows: int = 1
    context: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """A model beside the memory that it may take.

    `weight_bytes` are the bytes of the weights; None if unknown. `context_length` is the longest
    row in tokens by configuration and files; None for no limit. `limit` is what the processes of
    all models may take together, `pinned` what those take that never end for this model;
    `disk_buffers` what KV takes on its way to and from disk. `ranks` processes compute the model.
    """

    needs: MemoryNeeds
    weight_bytes: int | None
    context_length: int | None
    limit: int
    pinned: tuple[MemoryClaim, ...] = ()
    disk_buffers: int = 0
    ranks: int = 1

    @property
    def process_bytes(self) -> int:
        """Return what the processes take beside weights and KV."""
        return self.ranks * PROCESS_BYTES

    @property
    def start_bytes(self) -> int | None:
        """Return what the processes are expected to take once loaded; None if unknown."""
        return None if self.weight_bytes is None else self.weight_bytes + self.process_bytes

    @property
    def starts(self) -> bool | None:
        """True if the model can start beside the pinned ones; None if unknown."""
        if self.start_bytes is None:
            return None
        return self.start_bytes + sum(claim.at_start for claim in self.pinned) <= self.limit

    @property
    def kv_budget(self) -> int | None:
        """Return the bytes that rows may take; None if unknown."""
        if self.start_bytes is None:
            return None
        claim = MemoryClaim("", self.start_bytes, disk_buffers=self.disk_buffers)
        return kv_budget(claim, self.pinned, self.limit)

    def kv_bytes(self, rows: int, context: int) -> int | None:
        """Return the bytes of these rows, as far as they run at once; None if unknown."""
        if self.needs.kv is None:
            return None
        return self.needs.kv.batch_nbytes(self._at_once(rows), context)

    def max_context(self, rows: int) -> int | None:
        """Return the most tokens that each of these rows may have; None if unknown.

        0: not even the smallest rows fit.
        """
        if self.needs.kv is None or self.kv_budget is None:
            return None
        kv = self.needs.kv
        blocks = bisect.bisect_right(
            range(1, MOST_BLOCKS + 1),
            self.kv_budget,
            key=lambda count: kv.batch_nbytes(self._at_once(rows), count * BLOCK),
        )
        return min(blocks * BLOCK, self.context_length or blocks * BLOCK)

    def max_rows(self, context: int) -> int | None:
        """Return how many rows of this many tokens fit; None if unknown."""
        if self.needs.kv is None or self.kv_budget is None:
            return None
        return self._at_once(self.kv_budget // max(1, self.needs.kv.batch_nbytes(1, context)))

    def _at_once(self, rows: int) -> int:
        """Return how many of these rows the engine runs at once."""
        return min(rows, 1) if self.needs.unbatched else rows

    def answer(self, question: Question) -> bool | None:
        """Return True if what is asked fits, False if it does not, None if that is unknown."""
        if self.starts is not True:
            return self.starts
        context, own = question.context, self.context_length
        if context is not None and own is not None and context > own:
            return False
        most = self.max_context(question.rows)
        return None if most is None else most >= (context or 1)


def pinned_claims(weights: Iterable[int]) -> tuple[MemoryClaim, ...]:
    """Return the claims of pinned models with these bytes of weights."""
    return tuple(MemoryClaim("", nbytes + PROCESS_BYTES, is_pinned=True) for nbytes in weights)
