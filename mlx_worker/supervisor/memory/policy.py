"""Which models fit into the node's memory, and which are unloaded: the decisions alone.

A model needs what its process was measured to take, and before the first measurement its weights
and what any process takes. For a model that does not fit beside those that run, idle models are
unloaded, the least recently used first; busy and pinned models stay. Running models grow with their
caches: over the limit the caches are trimmed first, then new work is refused, then one process is
replaced, because only the end of a process returns its memory for sure. Pure.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from mlx_worker.config.sizes import in_words
from mlx_worker.kv_disk.memory import tier_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlx_worker.config.schema import CacheConfig, ModelConfig
    from mlx_worker.models.resolve import PlannedModel

PROCESS_BYTES: Final = 192 << 20
"""What a child takes beside weights and KV: interpreter, mlx, tokenizer. Measured on Linux: 90 to
140 MB."""


_DISK_PART: Final = 4


def disk_buffers(model: ModelConfig, cache: CacheConfig) -> int:
    """Return what a model's KV takes on its way to and from disk; 0 without KV on disk."""
    keeps_kv = cache.disk and model.keeps_kv_on_disk
    return tier_bytes(int(model.cache_bytes)) if keeps_kv else 0


def expected_bytes(planned: PlannedModel) -> int:
    """Return what a model's processes are expected to take once they have loaded the model."""
    weights = planned.folder.weight_bytes if planned.folder else 0
    return weights + planned.config.ranks * PROCESS_BYTES


@dataclass(frozen=True, slots=True)
class MemoryClaim:
    """One model's claim, in bytes.

    `at_start` is what the process takes once it has loaded the model, measured or estimated;
    `used` what the process takes now, None before a measurement. `disk_buffers` is what KV takes on
    its way to and from disk, beside the prompt cache. `is_resident`: the process runs or
    is about to; `is_leaving`: the process is ending. `last_used` is on one clock for all models.
    """

    model: str
    at_start: int
    used: int | None = None
    is_resident: bool = False
    is_leaving: bool = False
    is_idle: bool = False
    is_pinned: bool = False
    last_used: float = 0.0
    disk_buffers: int = 0

    @property
    def reserved_bytes(self) -> int:
        """Return what the model needs while it is resident."""
        return max(self.at_start, self.used or 0)

    @property
    def is_evictable(self) -> bool:
        """True if the model can be unloaded for another."""
        return self.is_resident and self.is_idle and not self.is_pinned and not self.is_leaving

    @property
    def growth(self) -> int:
        """Return what the process has taken since it loaded the model."""
        return (self.used or 0) - self.at_start if self.is_resident else 0


# --- the start of a model -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admit:
    """The model may start."""


@dataclass(frozen=True, slots=True)
class AdmitAfterEviction:
    """The model may start once these have ended; none: those that are ending suffice."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Evicting every evictable model would not free enough memory now."""

    why: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The model would not fit in memory if it were alone."""

    why: str


StartDecision = Admit | AdmitAfterEviction | Wait | Reject


def decide_start(wanted: MemoryClaim, others: Sequence[MemoryClaim], limit: int) -> StartDecision:
    """Decide whether a model may start beside the others, and which of them end for it."""
    if wanted.at_start > limit:
        return Reject(f"it needs {in_words(wanted.at_start)}; memory_limit is {in_words(limit)}")
    free = limit - sum(claim.reserved_bytes for claim in others if claim.is_resident)
    if wanted.at_start <= free:
        return Admit()
    free += sum(claim.reserved_bytes for claim in others if claim.is_leaving)
    evicted: list[str] = []
    for claim in _evictable(others):
        if wanted.at_start <= free:
            break
        evicted.append(claim.model)
        free += claim.reserved_bytes
    if wanted.at_start > free:
        return Wait(_why_wait(wanted, others, limit))
    return AdmitAfterEviction(tuple(evicted))


def _evictable(claims: Iterable[MemoryClaim]) -> list[MemoryClaim]:
    """Return the models that may be unloaded, the least recently used first."""
    evictable = (claim for claim in claims if claim.is_evictable)
    return sorted(evictable, key=lambda claim: claim.last_used)


def _why_wait(wanted: MemoryClaim, others: Iterable[MemoryClaim], limit: int) -> str:
    staying = ", ".join(
        f"{claim.model} takes {in_words(claim.reserved_bytes)}"
        f"{' (pinned)' if claim.is_pinned else ''}"
        for claim in others
        if claim.is_resident and not claim.is_evictable
    )
    return f"it needs {in_words(wanted.at_start)} of {in_words(limit)}; {staying}"


def kv_budget(wanted: MemoryClaim, others: Iterable[MemoryClaim], limit: int) -> int:
    """Return the bytes that a model's rows may take: what it and the pinned models leave.

    What KV takes on its way to and from disk is left out, but at most a quarter: where memory is
    that scarce, rows matter more, and the rules for pressure hold the limit.
    """
    pinned = sum(claim.at_start for claim in others if claim.is_pinned)
    room = max(0, limit - wanted.at_start - pinned)
    return room - min(wanted.disk_buffers, room // _DISK_PART)


# --- pressure -----------------------------------------------------------------------------


class PressureLevel(Enum):
    """What is done about the use of memory."""

    CALM = auto()
    TRIM = auto()
    REFUSE = auto()
    RECYCLE = auto()


class PressureEscalation:
    """Raises the level, from one measurement to the next, while more than the limit is used.

    Each level has `checks` measurements to help before the next one is taken.
    """

    def __init__(self, checks: int = 3) -> None:
        self._checks = checks
        self._since = 0
        self.level = PressureLevel.CALM

    def check(self, used: int, limit: int) -> PressureLevel | None:
        """Return the level to act on now; None if the last action has to take effect first."""
        if used <= limit:
            changed = self.level is not PressureLevel.CALM
            self.level = PressureLevel.CALM
            return PressureLevel.CALM if changed else None
        self._since += 1
        if self.level is not PressureLevel.CALM and self._since < self._checks:
            return None
        self._since = 0
        self.level = PressureLevel(min(self.level.value + 1, PressureLevel.RECYCLE.value))
        return self.level

    @property
    def refuses_work(self) -> bool:
        """True if new work is refused."""
        return self.level in (PressureLevel.REFUSE, PressureLevel.RECYCLE)


def bytes_to_trim(over: int, caches: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes that each model's cache has to free, the largest cache first."""
    trims: dict[str, int] = {}
    for model, nbytes in sorted(caches.items(), key=lambda entry: -entry[1]):
        if over > 0 and nbytes > 0:
            trims[model] = min(over, nbytes)
            over -= nbytes
    return trims


def model_to_recycle(over: int, claims: Sequence[MemoryClaim]) -> MemoryClaim | None:
    """Return the model whose new process would free most; None if that would hardly help."""
    largest = max(claims, key=lambda claim: claim.growth, default=None)
    return largest if largest is not None and largest.growth * 2 >= over else None


def models_to_unload(over: int, claims: Sequence[MemoryClaim]) -> list[MemoryClaim]:
    """Return the idle models to unload, the longest idle first, until the others fit."""
    over -= sum(claim.used or 0 for claim in claims if claim.is_leaving)
    chosen: list[MemoryClaim] = []
    for claim in _evictable(claims):
        if over <= 0:
            break
        chosen.append(claim)
        over -= claim.used or 0
    return chosen


def median_excess(measured: Iterable[tuple[int, int]]) -> int:
    """Return what processes take beyond their estimates, in bytes: the median.

    `measured` has (measured, estimated) bytes of each process. By the median one large cache makes
    no other model large.
    """
    excess = sorted(max(0, taken - estimated) for taken, estimated in measured)
    return excess[len(excess) // 2] if excess else 0
