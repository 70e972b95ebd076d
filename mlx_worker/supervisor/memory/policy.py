"""What fits into the node's memory, and what gives way: the decisions, without a child.

A model needs what its process was measured to take, before it ever ran its weights and what any
process of ours takes. One that does not fit beside those that run has the least recently used idle
ones unloaded for it; models at work, and pinned ones, stay. What runs grows with its caches: over
the limit these are trimmed first, then new work is refused, then a process is given up for a fresh
one, because only the end of a process returns its memory for sure. Pure: facts in, decisions out.
[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from mlx_worker.config.sizes import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PROCESS_BYTES: Final = 192 << 20
"""What a child takes beside weights and KV: interpreter, mlx, tokenizer. Measured on Linux: 90 to
140 MB."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One model's claim, in bytes.

    `at_start` is what its process takes once it is loaded, measured or estimated; `used` what it
    takes now, None where it has not been measured. `lodged`: its process is there or on its way;
    `leaving`: on its way out. `last_used` is on any one clock.
    """

    model: str
    at_start: int
    used: int | None = None
    lodged: bool = False
    leaving: bool = False
    idle: bool = False
    pinned: bool = False
    last_used: float = 0.0

    @property
    def needs(self) -> int:
        """What has to be kept for it while it is lodged."""
        return max(self.at_start, self.used or 0)

    @property
    def may_go(self) -> bool:
        """Can it be unloaded for somebody else?"""
        return self.lodged and self.idle and not self.pinned and not self.leaving

    @property
    def grown(self) -> int:
        """What it has taken since it was loaded."""
        return (self.used or 0) - self.at_start if self.lodged else 0


# --- room for a model ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fits:
    """It may start."""


@dataclass(frozen=True, slots=True)
class Evict:
    """It may start once these have left; none: those that are leaving already suffice."""

    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Full:
    """Not now: nobody who could leave would leave room enough."""

    why: str


@dataclass(frozen=True, slots=True)
class NeverFits:
    """Not even alone."""

    why: str


Verdict = Fits | Evict | Full | NeverFits


def make_room(wanted: Tenant, others: Sequence[Tenant], limit: int) -> Verdict:
    """May this model start beside the others, and who has to leave for it?"""
    if wanted.at_start > limit:
        return NeverFits(f"it needs {in_words(wanted.at_start)}; memory_limit is {in_words(limit)}")
    free = limit - sum(it.needs for it in others if it.lodged)
    if wanted.at_start <= free:
        return Fits()
    free += sum(it.needs for it in others if it.leaving)
    victims: list[str] = []
    for it in sorted(filter(lambda it: it.may_go, others), key=lambda it: it.last_used):
        if wanted.at_start <= free:
            break
        victims.append(it.model)
        free += it.needs
    if wanted.at_start > free:
        return Full(_why_full(wanted, others, limit))
    return Evict(tuple(victims))


def _why_full(wanted: Tenant, others: Iterable[Tenant], limit: int) -> str:
    staying = ", ".join(
        f"{it.model} takes {in_words(it.needs)}{' (pinned)' if it.pinned else ''}"
        for it in others
        if it.lodged and not it.may_go
    )
    return f"it needs {in_words(wanted.at_start)} of {in_words(limit)}; {staying}"


def kv_budget(wanted: Tenant, others: Iterable[Tenant], limit: int) -> int:
    """Bytes that a model's running rows may take: all that it and the pinned ones leave."""
    pinned = sum(it.at_start for it in others if it.pinned)
    return max(0, limit - wanted.at_start - pinned)


# --- pressure -----------------------------------------------------------------------------


class Rung(Enum):
    """How far it has come."""

    CALM = auto()
    TRIM = auto()
    REFUSE = auto()
    RECYCLE = auto()


class Ladder:
    """From one measurement to the next: what follows when more is used than may be.

    Each step has so many `looks` to help before the next one is taken.
    """

    def __init__(self, looks: int = 3) -> None:
        self._looks = looks
        self._since = 0
        self.rung = Rung.CALM

    def look(self, used: int, limit: int) -> Rung | None:
        """The step to take now; None: none that was not taken already."""
        if used <= limit:
            changed, self.rung = self.rung is not Rung.CALM, Rung.CALM
            return Rung.CALM if changed else None
        self._since += 1
        if self.rung is not Rung.CALM and self._since < self._looks:
            return None
        self._since = 0
        self.rung = Rung(min(self.rung.value + 1, Rung.RECYCLE.value))
        return self.rung

    @property
    def refuses(self) -> bool:
        """Is new work refused?"""
        return self.rung in (Rung.REFUSE, Rung.RECYCLE)


def trims(over: int, caches: Mapping[str, int]) -> dict[str, int]:
    """Bytes that each model's cache is to give back, the largest first."""
    asked: dict[str, int] = {}
    for model, nbytes in sorted(caches.items(), key=lambda it: -it[1]):
        if over > 0 and nbytes > 0:
            asked[model] = min(over, nbytes)
            over -= nbytes
    return asked


def who_grew(over: int, tenants: Sequence[Tenant]) -> Tenant | None:
    """The one whose fresh process would return most; None where that would hardly help."""
    most = max(tenants, key=lambda it: it.grown, default=None)
    return most if most is not None and most.grown * 2 >= over else None


def rest(over: int, tenants: Sequence[Tenant]) -> list[Tenant]:
    """Return the idle models to unload, the longest idle first, until the rest is not over."""
    over -= sum(it.used or 0 for it in tenants if it.leaving)
    chosen: list[Tenant] = []
    for it in sorted(filter(lambda it: it.may_go, tenants), key=lambda it: it.last_used):
        if over <= 0:
            break
        chosen.append(it)
        over -= it.used or 0
    return chosen


def surplus(measured: Iterable[tuple[int, int]]) -> int:
    """Return what processes take beyond what was expected of them, in bytes.

    `measured` has (taken, expected) of each process that was measured. The median: one large cache
    makes no other model large.
    """
    over = sorted(max(0, taken - expected) for taken, expected in measured)
    return over[len(over) // 2] if over else 0
