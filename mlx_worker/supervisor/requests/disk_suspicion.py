"""Which records of KV on disk are under suspicion after a process died: the decisions alone.

A record with a right checksum may still end a process, by a defect of mlx for example. So the
records that a process read shortly before its death are set aside by the next process, which tries
each of them once more apart from others. A request that has read from disk at several crashes is
resumed in a process without KV on disk: a record must not get a request refused. The clock is the
caller's.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.supervisor.requests.resume_policy import is_resumed_alone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy

SUSPECT_SECONDS: Final = 60.0
"""After a token and this time the KV that was read has proved harmless."""

MOST_OF_A_REQUEST: Final = 256
MOST: Final = 4096


@dataclass(frozen=True, slots=True)
class SuspectedRead:
    """The records that one process read for a request, and when, on the loop's clock."""

    records: tuple[bytes, ...] = ()
    at: float = 0.0

    def suspects(self, now: float, *, awaits_token: bool) -> tuple[bytes, ...]:
        """Return the records that may have ended the process."""
        is_recent = now - self.at <= SUSPECT_SECONDS
        return self.records if awaits_token or is_recent else ()


class DiskSuspects:
    """The records that the next process of a model sets aside, the last to come under suspicion."""

    def __init__(self) -> None:
        self._records: dict[bytes, None] = {}

    def add(self, records: Iterable[bytes]) -> None:
        """Add records that were read shortly before a process died."""
        for record in records:
            self._records.pop(record, None)
            self._records[record] = None
        while len(self._records) > MOST:
            del self._records[next(iter(self._records))]

    def clear(self) -> None:
        """Forget all records: a process has set them aside."""
        self._records.clear()

    @property
    def records(self) -> list[bytes]:
        """Return the records, the longest suspected first."""
        return list(self._records)


def avoids_disk(waiting: Iterable[Generation], policy: ResumePolicy) -> bool:
    """Return True if the next process is to read nothing from disk.

    A request that is resumed alone would be refused at one of its next crashes, though a record
    may be to blame.
    """
    return any(
        generation.disk_crashes and is_resumed_alone(generation, policy) for generation in waiting
    )
