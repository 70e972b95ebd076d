"""How steps of a running batch compare with the measured passes.

The ladder is measured on short KV, one pass after the other. A step of a running batch also samples
and sends, and its KV is longer. While no row drafts, its pass overlaps with the work around it; a
step that waits for the tokens before it, to draft behind them, loses that, also where nothing is
found then. So the costs of the ladder are corrected by what steps of each kind take. Each number of
rows is known apart: one row may decode at half the speed that the ladder promises, and eight at
twice. [child]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 0.8
"""The weight of what is known, for each step that is added."""
OUTLIER: Final = 5.0
"""A step that takes this many times as long as expected read a prompt too, or waited for work."""
RUN_IN: Final = 4
"""Free steps behind one that waited, which do not overlap as they will."""
FREE_STEPS: Final = 5
"""Free steps that are learned from together: the median of them."""
KEPT_IF_FASTER: Final = 0.5
KEPT_IF_SLOWER: Final = 0.85
"""The weight of what is known, for each such median that is added: what disturbed a few free steps
is no reason to draft.
"""
FORGETTING: Final = 0.002
"""The share of what is known of other steps that is forgotten then: they are tried again."""
FIRST_WAITS: Final = 8
"""Steps that wait before the first free ones are run, to learn what these take."""
LATER_WAITS: Final = 64
"""Steps that wait before free ones are run again: what else runs on the machine changes."""


class StepKind(Enum):
    """Tell steps apart: FREE waited for no token, HELD waited in vain, WIDE reads drafts."""

    FREE = auto()
    HELD = auto()
    WIDE = auto()


@dataclass(slots=True)
class StepPace:
    """By what factor steps of each kind are slower than the ladder says, with one number of rows.

    `vain` is the share of steps that waited for tokens and read no draft. `after` is how much
    slower the free steps behind one that waited are together, in passes of width 1.
    """

    free: float = 1.0
    held: float = 1.0
    wide: float = 1.0
    vain: float = 0.0
    after: float = 0.0
    has_run_free: bool = False
    has_run_wide: bool = False
    waits: int = 0
    """Steps that waited since what is known of free steps was learned."""

    @property
    def must_run_free(self) -> bool:
        """True if it is not known, or not any more, what a free step takes."""
        return self.waits >= (LATER_WAITS if self.has_run_free else FIRST_WAITS)

    def learn_free(self, factor: float) -> None:
        """Learn what free steps take that overlap; what was assumed before is no measurement."""
        kept = KEPT_IF_FASTER if factor < self.free else KEPT_IF_SLOWER
        kept = kept if self.has_run_free else 0.0
        self.free = self.free * kept + factor * (1 - kept)
        self.held += (self.free - self.held) * FORGETTING
        self.wide += (self.free - self.wide) * FORGETTING
        self.vain -= self.vain * FORGETTING
        self.after -= self.after * FORGETTING
        self.has_run_free = True
        self.waits = 0

    def learn_wait(self, factor: float, kind: StepKind) -> None:
        """Learn what a step took that waited."""
        if factor > OUTLIER * max(self.free, self.wide if kind is StepKind.WIDE else self.held):
            return
        if kind is StepKind.HELD:
            self.held = self.held * KEPT + factor * (1 - KEPT)
        else:
            kept = KEPT if self.has_run_wide else 0.0
            self.wide = self.wide * kept + factor * (1 - kept)
            self.has_run_wide = True


class Paces:
    """Learn the pace of steps by their number of rows, from when each of them begins."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[int, StepPace] = {}
        self._running: _Step | None = None
        self._run: list[float] = []
        """Factors of the free steps that ended since the last other one."""

    def of(self, rows: int) -> StepPace:
        """Return the pace with this number of rows; at first, that of the nearest known number."""
        if rows not in self._known:
            near = min(self._known, key=lambda known: abs(known - rows), default=None)
            known = StepPace() if near is None else self._known[near]
            self._known[rows] = replace(known, has_run_free=False, has_run_wide=False, waits=0)
        return self._known[rows]

    def begin(self, rows: int, expected: float, kind: StepKind) -> None:
        """Record that a step begins, which ends the one before; `expected` are its seconds."""
        now = self._clock()
        ended, self._running = self._running, _Step(rows, expected, kind, now)
        if ended is not None:
            self._end(ended, (now - ended.begun) / ended.expected)
        if ended is not None and ended.rows != rows:
            self._run = []
        if kind is not StepKind.FREE:
            pace = self.of(rows)
            pace.vain = pace.vain * KEPT + (kind is StepKind.HELD) * (1 - KEPT)
            excess = sum(
                max(0.0, factor - pace.free)
                for factor in self._run[:RUN_IN]
                if factor <= OUTLIER * pace.free
            )
            pace.after = pace.after * KEPT + excess * (1 - KEPT)
            pace.waits += 1
            self._run = []

    def exclude(self, seconds: float) -> None:
        """Leave seconds that just passed out of the running step."""
        if self._running is not None:
            self._running = replace(self._running, begun=self._running.begun + seconds)

    def _end(self, step: _Step, factor: float) -> None:
        pace = self.of(step.rows)
        if step.kind is not StepKind.FREE:
            pace.learn_wait(factor, step.kind)
            return
        self._run.append(factor)
        if len(self._run) == RUN_IN + FREE_STEPS:
            pace.learn_free(median(self._run[RUN_IN:]))
            del self._run[RUN_IN:]


@dataclass(frozen=True, slots=True)
class _Step:
    """A running step: how long it is expected to take, and when it began."""

    rows: int
    expected: float
    kind: StepKind
    begun: float
