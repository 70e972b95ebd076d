"""How steps of a running batch compare with the measured passes.

The ladder is measured on short KV, one pass after the other. A step of a running batch also samples
and sends, and its KV is longer. While no row drafts, its pass overlaps with the work around it; a
step that waits for the tokens before it, to draft behind them, loses that, also where nothing is
found then. So the costs of the ladder are corrected by what steps of each kind take. [child]
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 0.8
"""The weight of what is known, for each step that is added."""
OUTLIER: Final = 5.0
"""A step that takes this many times as long as expected read a prompt too, or waited for work."""
FORGETTING: Final = 0.003
"""The share of what is known of other steps that a free step forgets: they are tried again."""
FIRST_WAITS: Final = 32
"""Steps that wait before the first free ones are run, to learn what these take."""
LATER_WAITS: Final = 512
"""Steps that wait before free ones are run again."""
FREE_STEPS: Final = 2
"""Free steps that are learned from, then."""
RUN_IN: Final = 3
"""Free steps behind one that waited, which do not overlap as they will."""


class Kind(Enum):
    """Tell steps apart: FREE waited for no token, HELD waited in vain, WIDE reads drafts."""

    FREE = auto()
    HELD = auto()
    WIDE = auto()


class StepPace:
    """Learn by what factor steps of each kind are slower than the ladder says.

    `vain` is the share of steps that waited for tokens and read no draft. `after` is how much
    slower the free steps behind one that waited are together, in passes of width 1.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.free = 1.0
        self.held = 1.0
        self.wide = 1.0
        self.vain = 0.0
        self.after = 0.0
        self._clock = clock
        self._running: tuple[float, Kind, float] | None = None
        self._run = 0
        self._excess = 0.0
        self._has_run_free = False
        self._waits = 0
        self._learned = 0

    @property
    def must_run_free(self) -> bool:
        """True if it is not known, or not any more, what a free step takes."""
        return self._waits >= (LATER_WAITS if self._has_run_free else FIRST_WAITS)

    def begin(self, expected: float, kind: Kind) -> None:
        """Record that a step begins, which ends the one before; `expected` are its seconds."""
        now = self._clock()
        if self._running is not None:
            begun, ended, seconds = self._running
            self._add((now - begun) / seconds, ended)
        if kind is not Kind.FREE:
            self.vain = self.vain * KEPT + (kind is Kind.HELD) * (1 - KEPT)
            self.after = self.after * KEPT + self._excess * (1 - KEPT)
            self._excess = 0.0
            self._waits += 1
            self._learned = self._run = 0
        self._running = now, kind, expected

    def exclude(self, seconds: float) -> None:
        """Leave seconds that just passed out of the running step."""
        if self._running is not None:
            begun, kind, expected = self._running
            self._running = begun + seconds, kind, expected

    def _add(self, factor: float, kind: Kind) -> None:
        match kind:
            case Kind.FREE:
                self._run += 1
                if self._run <= RUN_IN:
                    if factor <= OUTLIER * self.free:
                        self._excess += max(0.0, factor - self.free)
                    return
                self._learn_free(factor)
                self.held += (self.free - self.held) * FORGETTING
                self.wide += (self.free - self.wide) * FORGETTING
                self.vain -= self.vain * FORGETTING
                self.after -= self.after * FORGETTING
            case Kind.HELD:
                self.held = _kept(self.held, factor)
            case Kind.WIDE:
                self.wide = _kept(self.wide, factor)

    def _learn_free(self, factor: float) -> None:
        is_first = not (self._has_run_free or self._learned)
        if is_first and factor <= OUTLIER * self.free:
            self.free = factor  # what was assumed before is no measurement
        else:
            self.free = _kept(self.free, factor)
        self._learned += 1
        if self._learned >= FREE_STEPS:
            self._has_run_free = True
            self._waits = 0


def _kept(known: float, factor: float) -> float:
    """Return what is known with one step more."""
    return known if factor > OUTLIER * known else known * KEPT + factor * (1 - KEPT)
