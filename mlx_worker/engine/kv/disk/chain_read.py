"""A chain of records that is being read, and what a sequence knows of a chain that was read.

All calls belong to the thread that owns mlx. [child]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_worker.engine.kv.disk.reading_plan import names_of
from mlx_worker.wire.messages import PrefillProgress

if TYPE_CHECKING:
    from mlx_worker.engine.kv.disk.reading_plan import ReadPlan
    from mlx_worker.engine.kv.disk.restoring import Restoration
    from mlx_worker.engine.sequence import Sequence
    from mlx_worker.kv_disk.reader import DiskRead


@dataclass(frozen=True, slots=True)
class FromDisk:
    """Tokens `start` to `stop` of a prompt were read from disk, out of the records `names`."""

    start: int
    stop: int
    names: tuple[bytes, ...]


@dataclass(slots=True, eq=False)
class ChainRead:
    """A chain that is being read, for the sequences that wait for its end."""

    tokens: list[int]
    plan: ReadPlan
    disk: DiskRead
    restoration: Restoration
    waiting: list[Sequence]
    limit: int
    """Records from this place on are not there: those before may serve a shorter prefix."""
    added: set[int] = field(default_factory=set)
    is_announced: bool = False

    @property
    def is_complete(self) -> bool:
        """True if all records that can be used were added."""
        return all(place in self.added for place in range(self.limit))

    @property
    def stop(self) -> int:
        """Return the end of the prefix that the records before `limit` serve."""
        records = self.plan.records[: self.limit]
        return records[-1].stop if records else 0

    @property
    def done(self) -> int:
        """Return how many tokens are in memory again."""
        return max((self.plan.records[place].stop for place in self.added), default=0)

    def announcement(self) -> list[PrefillProgress]:
        """Return what names the records to the front before they can do any harm."""
        names = list(names_of(self.plan.records))
        resident = self.plan.resident
        return [
            PrefillProgress(sequence.id, resident, len(sequence.prompt.tokens), names)
            for sequence in self.waiting
        ]
