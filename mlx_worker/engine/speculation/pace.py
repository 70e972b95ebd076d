"""How steps of a running batch compare with the measured passes.

The ladder is measured on short KV, one pass after the other. A step of a running batch also samples
and sends, its KV is longer, and while no row drafts its pass overlaps with that work. So the costs
of the ladder are corrected by what steps take: narrow and wide ones apart. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT: Final = 0.8
"""The weight of what is known, for each step that is added."""
OUTLIER: Final = 5.0
"""A step that takes this many times as long as expected read a prompt too, or waited for work."""
FORGETTING: Final = 0.005
"""The share of what is known of wide steps that each narrow step forgets: they are tried again."""


class StepPace:
    """Learn by what factor narrow and wide steps are slower than the ladder says."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.narrow = 1.0
        self.wide = 1.0
        self._clock = clock
        self._running: tuple[float, bool, float] | None = None

    def begin(self, expected: float, *, is_wide: bool) -> None:
        """Record that a step begins, which ends the one before; `expected` are its seconds."""
        now = self._clock()
        if self._running is not None:
            begun, was_wide, seconds = self._running
            self._add((now - begun) / seconds, was_wide)
        self._running = now, is_wide, expected

    def exclude(self, seconds: float) -> None:
        """Leave seconds that just passed out of the running step."""
        if self._running is not None:
            begun, was_wide, expected = self._running
            self._running = begun + seconds, was_wide, expected

    def _add(self, factor: float, is_wide: bool) -> None:
        if factor > OUTLIER * (self.wide if is_wide else self.narrow):
            return
        if is_wide:
            self.wide = self.wide * KEPT + factor * (1 - KEPT)
        else:
            self.narrow = self.narrow * KEPT + factor * (1 - KEPT)
            self.wide += (self.narrow - self.wide) * FORGETTING
