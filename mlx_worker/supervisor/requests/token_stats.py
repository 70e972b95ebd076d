"""How fast one model's generations run, over all its processes: counted once a decode step.

The time of a step is the inter-token latency of every row that was in the step before, too. A row
that begins, or comes back after a pause of its own, has none yet. Several short steps may arrive as
one, and share its time. So one clock and one bisection serve all rows, and a token costs less the
more rows there are.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlx_worker.histogram import BETWEEN_TOKENS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from mlx_worker.wire.output import RowOutput


class TokenStats:
    """Counts generated `tokens`, and the seconds between two tokens of a row in `inter_token`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._at = 0.0
        self._rows: AbstractSet[int] = frozenset()
        self.tokens = 0
        self.inter_token = Histogram(BETWEEN_TOKENS)

    def on_step(self, rows: Sequence[RowOutput]) -> None:
        """Count the tokens of a step: one for each row and each step that arrived as one."""
        now = self._clock()
        tokens = {row.id: len(row.tokens) for row in rows}
        if again := sum(tokens[id_] for id_ in tokens.keys() & self._rows):
            self.inter_token.observe((now - self._at) / max(tokens.values()), again)
        self._at, self._rows = now, tokens.keys()
        self.tokens += sum(tokens.values())
