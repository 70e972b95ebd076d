"""The KV events of one model in order, kept for subscribers that missed some.

The log outlives the model's processes: the end of one clears all its blocks, and the sequence
numbers go on. Batches that are too many, or too large together, are folded into one that makes the
same blocks, so that a replay from any number rebuilds everything. [front]
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_worker.supervisor.kv_events import encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import msgspec

    from mlx_worker.wire.kv_blocks import KvBlocks

MAX_BATCHES: Final = 10_000
"""vLLM keeps as many by default."""

MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class KvEventBatch:
    """What changed at once: first everything `is_cleared`, then `removed`, then `stored`."""

    sequence: int
    at: float
    stored: Mapping[int, msgspec.Raw]
    removed: Sequence[int] = ()
    is_cleared: bool = False

    @property
    def nbytes(self) -> int:
        """Return the bytes that the batch takes, nearly."""
        return sum(map(len, self.stored.values())) + 9 * len(self.removed)

    def payload(self) -> bytes:
        """Return the message's payload."""
        events = [encoding.CLEARED] if self.is_cleared else []
        if self.removed:
            events.append(encoding.removed(self.removed))
        return encoding.batch(self.at, [*events, *self.stored.values()])


class KvEventLog:
    """The batches of one model. `count` and `digest` are those that its process reported last.

    `on_batch` is called with each new batch. The blocks before the oldest batch are those that the
    process had then, so `cache_bytes` of the model bounds them.
    """

    on_batch: Callable[[KvEventBatch], None] | None = None

    def __init__(
        self,
        *,
        max_batches: int = MAX_BATCHES,
        max_bytes: int = MAX_BYTES,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.count = 0
        self.digest = 0
        self.next_sequence = 0
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._now = now
        self._batches: deque[KvEventBatch] = deque()
        self._nbytes = 0
        self._folded_at = 0.0
        self._folded: dict[int, msgspec.Raw] = {}

    def on_blocks(self, report: KvBlocks) -> None:
        """Add what a process reports."""
        self.count, self.digest = report.count, report.digest
        stored = {block.hash: encoding.stored(block) for block in report.stored}
        self._add(stored, report.removed, is_cleared=report.cleared)

    def on_process_lost(self) -> None:
        """Clear the blocks of a process that serves no more, if there were any."""
        if self.count:
            self.clear()

    def clear(self) -> None:
        """Add the end of all blocks."""
        self.count = self.digest = 0
        self._add({}, (), is_cleared=True)

    def since(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield sequence number and payload of all batches from `start` on, as they are now.

        Where some of them were folded, the first one yielded makes all blocks before the others.
        """
        kept, first = list(self._batches), self.next_sequence - len(self._batches)
        if start < first:
            folded = KvEventBatch(first - 1, self._folded_at, dict(self._folded), is_cleared=True)
            kept.insert(0, folded)
        return ((batch.sequence, batch.payload()) for batch in kept if batch.sequence >= start)

    def _add(
        self, stored: Mapping[int, msgspec.Raw], removed: Sequence[int], *, is_cleared: bool
    ) -> None:
        batch = KvEventBatch(self.next_sequence, self._now(), stored, removed, is_cleared)
        self.next_sequence += 1
        self._batches.append(batch)
        self._nbytes += batch.nbytes
        while len(self._batches) > self._max_batches or self._nbytes > self._max_bytes:
            self._fold_oldest()
        if self.on_batch is not None:
            self.on_batch(batch)

    def _fold_oldest(self) -> None:
        batch = self._batches.popleft()
        self._nbytes -= batch.nbytes
        self._folded_at = batch.at
        if batch.is_cleared:
            self._folded.clear()
        for own in batch.removed:
            self._folded.pop(own, None)
        self._folded.update(batch.stored)
