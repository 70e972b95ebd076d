"""Whether KV is read from disk or computed again: whichever takes less time, as measured here.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.engine.kv.disk.reading_plan import find_plan
from mlx_worker.engine.prefill import WORTH_WAITING, min_prefix_to_reuse

if TYPE_CHECKING:
    from mlx_worker.engine.batch import Batch
    from mlx_worker.engine.kv.disk.reading_plan import ReadPlan
    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.engine.kv.prompt_cache import PromptCache
    from mlx_worker.engine.prefill import ChunkSizer
    from mlx_worker.engine.sequence import Sequence

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


class ReadingChoice:
    """Choose what is worth reading for a sequence; `speed` is that of the disk."""

    def __init__(self, tier: DiskTier, batch: Batch, cache: PromptCache, pace: ChunkSizer) -> None:
        self._tier = tier
        self._batch = batch
        self._cache = cache
        self._pace = pace
        self.speed = ReadSpeed()

    @property
    def room(self) -> int:
        """Return the bytes that all chains together may take which are being read."""
        running: int = self._batch.prompt_cache_nbytes
        return self._cache.facts.capacity - running

    def resident(self, sequence: Sequence) -> int:
        """Return how many of the tokens are in memory, as `fetch` would find them."""
        resident = self._cache.resident(sequence.prompt.tokens[:-1])
        return resident if resident >= min_prefix_to_reuse(sequence.prompt.system_prefix) else 0

    def plan(self, sequence: Sequence, tokens: list[int], *, is_alone: bool) -> ReadPlan | None:
        """Return what is worth reading for a sequence; None: its prompt is read."""
        resident = self.resident(sequence)
        if len(tokens) - resident < WORTH_WAITING:
            return None
        plan = find_plan(self._tier, tokens, resident, apart=is_alone)
        if plan is None or plan.gain < WORTH_WAITING or plan.nbytes > self.room:
            return None
        return plan if self.speed.is_faster(plan.read_bytes, self.prefill(plan)) else None

    def prefill(self, plan: ReadPlan) -> float:
        """Return the seconds that computing the KV of a plan would take."""
        return prefill_seconds(plan.gain, self._pace.rate, plan.recorded)
