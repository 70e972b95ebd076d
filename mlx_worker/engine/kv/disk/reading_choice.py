"""Whether KV is read from disk or computed again: whichever takes less time, as measured here.

Pure, but for the speed that is remembered. [child]
"""

from __future__ import annotations

from typing import Final

START_RATE: Final = 200e6
"""Bytes a second that reading is expected to do before the first read: less than any disk of a
computer that runs models."""

RECOVERY: Final = 1 / 16
"""What part of the way to `START_RATE` an estimate goes back when reading is refused for it: a disk
that was busy once is tried again."""


def prefill_seconds(tokens: int, rate: float | None, recorded: float) -> float:
    """Return how long computing the KV of these tokens takes.

    `rate` is the measured one, in tokens a second. Before a prompt was read in this process, what
    was `recorded` with the KV counts: the seconds that computing it took.
    """
    return recorded if rate is None else tokens / rate


class ReadSpeed:
    """Measure how fast records are read from disk."""

    def __init__(self, rate: float = START_RATE) -> None:
        self.rate = rate
        """Bytes a second."""

    def record(self, nbytes: int, seconds: float) -> None:
        """Record how many bytes were read in how many seconds."""
        if nbytes and seconds > 0:
            self.rate = (self.rate + nbytes / seconds) / 2

    def is_faster(self, nbytes: int, prefill: float) -> bool:
        """Return True if reading these bytes takes less than the seconds of `prefill`."""
        if nbytes / self.rate < prefill:
            return True
        if self.rate < START_RATE:
            self.rate += (START_RATE - self.rate) * RECOVERY
        return False
