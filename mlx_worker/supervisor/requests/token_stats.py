"""How fast one model's streams go, through all its processes: counted once a decode step.

A step's time is the inter-token latency of every row that was in the one before, too; a row that
begins, or comes back after a pause of its own, has none yet. Several short steps may come as one,
and have shared its time. So one clock and one bisection serve all rows, and the price of a token
falls with their number. [front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlx_worker.histogram import BETWEEN_TOKENS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from mlx_worker.wire.output import RowOutput


class Pace:
    """Tokens generated, and seconds between two of a row."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._at = 0.0
        self._rows: AbstractSet[int] = frozenset()
        self.tokens = 0
        self.between = Histogram(BETWEEN_TOKENS)

    def step(self, rows: Sequence[RowOutput]) -> None:
        """These rows got their tokens, just now: one each in every step that it was."""
        now = self._clock()
        tokens = {row.id: len(row.tokens) for row in rows}
        if again := sum(tokens[id_] for id_ in tokens.keys() & self._rows):
            self.between.observe((now - self._at) / max(tokens.values()), again)
        self._at, self._rows = now, tokens.keys()
        self.tokens += sum(tokens.values())
