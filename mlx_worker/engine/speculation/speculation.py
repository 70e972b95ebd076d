"""The speculation of one engine: whether rows draft, how wide a pass is, and what came of it.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.engine.output.prompt_scores import max_scored_tokens
from mlx_worker.engine.speculation.drafter import Drafter
from mlx_worker.engine.speculation.ladder import WIDTHS, WORTH, Ladder
from mlx_worker.engine.speculation.pace import StepPace
from mlx_worker.wire.messages import PassCost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.sequence import Sequence as Row

WIDEST: Final = WIDTHS[-1]
MARGIN: Final = 1.05
"""How many times as fast a wide pass must be expected to be: it waits for tokens, and cuts KV."""


class Speculation:
    """Decide for the batch of one engine how many drafted tokens a pass has.

    `context_length` is in tokens: no pass reads further. A pass has no more logits, of which each
    token has `vocabulary`, than a pass over a scored prompt. `drafted` and `accepted` count tokens.
    """

    def __init__(self, ladder: Ladder, context_length: int, vocabulary: int) -> None:
        self.drafted = 0
        self.accepted = 0
        self._ladder = ladder
        self._context_length = context_length
        self._vocabulary = vocabulary
        self._pace = StepPace(ladder.clock)
        self._pays: dict[int, bool] = {}

    @property
    def off(self) -> str:
        """Return why no row drafts; "" where rows may draft."""
        return self._ladder.because

    @property
    def pass_costs(self) -> list[PassCost]:
        """Return the measured forward passes."""
        return [
            PassCost(rows, width, seconds)
            for (rows, width), seconds in self._ladder.seconds.items()
        ]

    def start(self, row: Row, prediction: Sequence[int] = ()) -> None:
        """Have a row draft, unless it decodes step by step.

        Penalties, grammars and budgets of reasoning need each token before the next one.
        """
        sampler = row.sampler
        if self._ladder.because or sampler is None:
            return
        if not (row.processors or sampler.constraint or sampler.budget):
            sampler.drafter = Drafter(prediction, row.ends)

    def record(self, drafted: int, accepted: int) -> None:
        """Count the tokens of a draft, and those of them that were right."""
        self.drafted += drafted
        self.accepted += accepted

    def pays(self, rows: int) -> bool:
        """Return True if a pass with this number of rows can be worth a wait for its tokens."""
        if rows not in self._pays:
            is_on = not self._ladder.because
            self._pays[rows] = is_on and self._ladder.best_gain(rows) >= WORTH
        return self._pays[rows]

    def begin_step(self, rows: int, width: int) -> None:
        """Learn how long the step before took; call this at the begin of every step."""
        if self.pays(rows):
            self._pace.begin(self._ladder.cost(rows, width), is_wide=width > 1)

    def width(
        self,
        rows: int,
        drafts: Sequence[tuple[int, float]],
        longest: int,
        columns: int = WIDEST,
    ) -> int:
        """Return the width of the next pass of this number of rows; 1: no row drafts.

        `drafts` has for each row that could draft how many tokens it has, and its hit rate.
        `longest` is how many tokens the longest row has. The KV has room for `columns` tokens more.
        """
        narrow, wide = self._pace.narrow, self._pace.wide
        best, best_speed = 1, MARGIN * rows / (narrow * self._ladder.cost(rows, 1))
        widest = min(
            WIDEST,
            1 + max((count for count, _ in drafts), default=0),
            self._context_length - longest,
            columns,
            max_scored_tokens(self._vocabulary, rows),
        )
        for width in range(2, widest + 1):
            expected = sum(_expected(min(count, width - 1), rate) for count, rate in drafts)
            seconds = wide * self._ladder.cost(rows, width)
            if (speed := (rows + expected) / seconds) > best_speed:
                best, best_speed = width, speed
        return best


def _expected(count: int, rate: float) -> float:
    """Return how many of `count` drafted tokens are right on average, from the first one on."""
    if rate >= 1:
        return count
    return float(rate * (1 - rate**count) / (1 - rate))
