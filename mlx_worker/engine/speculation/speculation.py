"""The speculation of one engine: whether rows draft, how wide a pass is, and what came of it.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.engine.output.prompt_scores import max_scored_tokens
from mlx_worker.engine.speculation.drafter import Drafter
from mlx_worker.engine.speculation.ladder import WIDTHS, WORTH, Ladder
from mlx_worker.engine.speculation.model_trust import ModelRecord
from mlx_worker.engine.speculation.pace import KEPT, OUTLIER, Paces, StepKind, StepPace
from mlx_worker.engine.speculation.rest import Rest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_worker.engine.sequence import Sequence as Row
    from mlx_worker.engine.speculation.draft_model import DraftAsk, DraftModel
    from mlx_worker.wire.messages import PassCost

WIDEST: Final = WIDTHS[-1]
READ_SHARE: Final = 1 / 16
"""The share of a step's time in which the draft model reads prompts."""
MARGIN: Final = 1.1
"""How many times as fast a wide pass must be expected to be: it waits for tokens, and cuts KV."""


class Speculation:
    """Decide for the batch of one engine how many drafted tokens a pass has.

    `context_length` is in tokens: no pass reads further. A pass has no more logits, of which each
    token has `vocabulary`, than a pass over a scored prompt. `drafted` and `accepted` count tokens,
    `model_drafted` and `model_accepted` those of the draft model. `draft_model` None: all drafts
    are looked up.
    """

    def __init__(
        self,
        ladder: Ladder,
        context_length: int,
        vocabulary: int,
        draft_model: DraftModel | None = None,
    ) -> None:
        self.drafted = 0
        self.accepted = 0
        self.model_drafted = 0
        self.model_accepted = 0
        self.draft_model = draft_model
        self._draft_factor = 1.0
        self._model_record = ModelRecord()
        self._ladder = ladder
        self._context_length = context_length
        self._vocabulary = vocabulary
        self._paces = Paces(ladder.clock)
        self._pays: dict[int, bool] = {}
        self._rest = Rest()

    @property
    def off(self) -> str:
        """Return why no row drafts; "" where rows may draft."""
        return self._ladder.because

    @property
    def pass_costs(self) -> list[PassCost]:
        """Return the measured forward passes."""
        return self._ladder.pass_costs

    def start(self, row: Row, prediction: Sequence[int] = ()) -> None:
        """Have a row draft, unless it decodes step by step.

        Penalties, grammars and budgets of reasoning need each token before the next one.
        """
        sampler = row.sampler
        if self._ladder.because or sampler is None:
            return
        if not (row.processors or sampler.constraint or sampler.budget):
            sampler.drafter = Drafter(prediction, row.ends, self._model_record)

    def record(self, drafted: int, accepted: int, *, by_model: bool = False) -> None:
        """Count the tokens of a draft, and those of them that were right."""
        self.drafted += drafted
        self.accepted += accepted
        if by_model:
            self.model_drafted += drafted
            self.model_accepted += accepted

    def may_ask(self, drafter: Drafter, tokens: int) -> bool:
        """Return True if a row with this number of tokens may ask the draft model for a draft."""
        model = self.draft_model
        return model is not None and model.takes(tokens) and drafter.model.may_ask(tokens)

    def propose(self, asks: Mapping[int, DraftAsk], count: int) -> dict[int, list[int]]:
        """Return what the draft model drafts for rows, by their numbers; learn how long it takes.

        The engine's own steps are not slower for that time.
        """
        assert self.draft_model is not None
        begun = self._ladder.clock()
        drafts = self.draft_model.propose(asks, count)
        took = self._ladder.clock() - begun
        self._paces.exclude(took)
        factor = took / self.draft_model.cost(len(asks), count)
        if factor <= OUTLIER * self._draft_factor:
            self._draft_factor = self._draft_factor * KEPT + factor * (1 - KEPT)
        return drafts

    def is_behind(self, uid: int, tokens: Sequence[int]) -> bool:
        """Return True if the draft model has to read tokens of the row before it drafts for it."""
        return self.draft_model is not None and self.draft_model.is_behind(uid, tokens)

    def read(self, rows: int, uid: int, tokens: Sequence[int]) -> None:
        """Have the draft model read some tokens of a row, while this number of rows decodes."""
        assert self.draft_model is not None
        step = self._paces.of(rows).free * self._ladder.cost(rows, 1)
        self.draft_model.read(uid, tokens, step * READ_SHARE)

    def pays(self, rows: int) -> bool:
        """Return True if a pass with this number of rows can be worth a wait for its tokens."""
        if rows not in self._pays:
            is_on = not self._ladder.because
            self._pays[rows] = is_on and self._ladder.best_gain(rows) >= WORTH
        return self._pays[rows]

    def looks(self, rows: int) -> bool:
        """Return True if drafts are looked for in the step that begins, with this number of rows.

        A draft model reads its prompts where rows without one would not look.
        """
        if not self.pays(rows) or self._paces.of(rows).must_run_free:
            return False
        return not (self._rest.begin_step(rows) and self.draft_model is None)

    def record_search(self, *, is_worth: bool) -> None:
        """Record whether a wide pass was worth a wait for tokens, by the drafts that were found."""
        self._rest.record(is_worth=is_worth)

    def begin_step(self, rows: int, width: int, *, has_waited: bool) -> None:
        """Learn how long the step before took; call this at the begin of every step.

        `has_waited`: the tokens of the step before were read first, to draft behind them.
        """
        if self.pays(rows):
            narrow = StepKind.HELD if has_waited else StepKind.FREE
            kind = StepKind.WIDE if width > 1 else narrow
            self._paces.begin(rows, self._ladder.cost(rows, width), kind)

    def plan(
        self,
        rows: int,
        drafts: Sequence[tuple[int, float]],
        longest: int,
        columns: int = WIDEST,
        asking: Sequence[float] = (),
        *,
        has_waited: bool = False,
    ) -> tuple[int, bool]:
        """Return the width of the next pass (1: no row drafts), and if the draft model is asked.

        `drafts` has for each row that could draft how many tokens it has, and its hit rate.
        `longest` is how many tokens the longest row has. The KV has room for `columns` tokens more.
        `asking` has the hit rates of the rows that would ask the draft model. Before the step has
        waited for tokens, a wide pass must be worth that wait.
        """
        pace = self._paces.of(rows)
        base = self._narrow_speed(rows, pace, has_waited=has_waited)
        vain = 0.0 if has_waited else pace.vain
        width, speed = self._best(rows, drafts, longest, columns, base, vain)
        model = self.draft_model
        if model is None or not asking:
            return width, False
        more = [*drafts, *((WIDEST - 1, rate) for rate in asking)]
        extra = [self._draft_factor * model.cost(len(asking), count) for count in range(1, WIDEST)]
        model_width, model_speed = self._best(rows, more, longest, columns, base, vain, extra)
        return (model_width, True) if model_speed > speed else (width, False)

    def _narrow_speed(self, rows: int, pace: StepPace, *, has_waited: bool) -> float:
        """Return how many tokens a second a pass of width 1 promises."""
        if has_waited:
            return rows / ((pace.held + pace.after) * self._ladder.cost(rows, 1))
        return MARGIN * rows / (pace.free * self._ladder.cost(rows, 1))

    def _best(
        self,
        rows: int,
        drafts: Sequence[tuple[int, float]],
        longest: int,
        columns: int,
        narrow_speed: float,
        vain: float,
        extra: Sequence[float] = (0.0,) * WIDEST,
    ) -> tuple[int, float]:
        """Return the best width, and how many tokens a second it promises.

        `narrow_speed` is the promise of width 1. `vain` is the share of passes that will not be
        wide after all. `extra` are the seconds that drafts of 1, 2, … tokens take.
        """
        best, best_speed = 1, narrow_speed
        pace = self._paces.of(rows)
        held = (vain * pace.held + pace.after) * self._ladder.cost(rows, 1)
        widest = min(
            WIDEST,
            1 + max((count for count, _ in drafts), default=0),
            self._context_length - longest,
            columns,
            max_scored_tokens(self._vocabulary, rows),
        )
        expected = 0.0
        for width, gained in enumerate(_expected(drafts, widest - 1), 2):
            expected += gained
            seconds = pace.wide * self._ladder.cost(rows, width) + extra[width - 2]
            speed = (rows + (1 - vain) * expected) / ((1 - vain) * seconds + held)
            if speed > best_speed:
                best, best_speed = width, speed
        return best, best_speed


def _expected(drafts: Sequence[tuple[int, float]], most: int) -> list[float]:
    """Return how many first, second, … drafted tokens are right on average, of at most `most`."""
    right = [0.0] * most
    for count, rate in drafts:
        share = 1.0
        for place in range(min(count, most)):
            share *= rate
            right[place] += share
    return right
