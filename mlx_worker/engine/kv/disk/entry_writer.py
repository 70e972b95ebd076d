"""What of the prompt cache is written to disk, and when.

System prompts are written at once, and the state of a session once it has rested, or at the end of
the process. An anonymous prompt is written when its KV is used a second time. The KV of an entry
never changes, so an entry is written from the prompt cache itself: a record is captured, evaluated
behind the running step, copied a few bytes a step, and handed to the writer's thread. Only records
that the store does not have are written. The turns among an entry's tokens are written with it.

An entry that is evicted before its end is kept for as long as the memory of the queue has room for
the whole entry; else what is missing of the entry is not written. All calls belong to the thread
that owns mlx. [child]
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import mlx.core as mx

from mlx_worker.engine.kv.disk.arrays import UnfitKv, capture
from mlx_worker.engine.kv.disk.missing import MissingRecords
from mlx_worker.engine.kv.disk.record_copy import RecordCopy
from mlx_worker.engine.kv.disk.turn_writer import TurnWriter
from mlx_worker.engine.kv.prompt_cache import RetentionClass
from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.kv_disk.files.records import Address, Kind, Record
from mlx_worker.logs import Entry

if TYPE_CHECKING:
    from mlx_worker.engine.batch import Batch
    from mlx_worker.engine.history.history import TurnHistory
    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.engine.kv.prompt_cache import CacheEntry
    from mlx_worker.engine.prefill import ChunkSizer
    from mlx_worker.kv_disk.files.keys import Link

log = logging.getLogger(__name__)

REST_SECONDS: Final = 30.0
"""Seconds without a use after which the state of a session is written."""

COPY_BYTES: Final = 8 << 20
"""Bytes that one step copies, about: a few milliseconds."""

STEPS_UNTIL_READY: Final = 2
"""Steps after which the device has made what was captured: each waits for the step before."""

LINKS_A_STEP: Final = 32
"""Links of a chain that one step looks up: about a millisecond."""

WAIT: Final = 0.02
"""Seconds between two looks at a full queue, with nothing else to do."""

OFF_WAIT: Final = 1.0
"""The same while the disk cannot be written."""

UNMEASURED: Final = 1e-3
"""Seconds that reading a token takes, before the speed of the model is known."""


@dataclass(slots=True, eq=False)
class _Job:
    """The first `stop` tokens of an entry that are to be written.

    `held` are bytes of an entry that the prompt cache does not have any more.
    """

    entry: CacheEntry
    stop: int
    is_essential: bool
    missing: MissingRecords
    held: int = 0


@dataclass(slots=True, eq=False)
class _Pending:
    """A captured record. `evaluated_at` None: the queue has no room for the record yet."""

    job: _Job
    kind: Kind
    link: Link
    copy: RecordCopy
    evaluated_at: int | None = None


class EntryWriter:
    """Write entries of one prompt cache to one tier; the observer of that cache.

    The device of `batch` makes the bytes; `pace` knows what prefill takes.
    """

    def __init__(
        self, tier: DiskTier, batch: Batch, pace: ChunkSizer, history: TurnHistory
    ) -> None:
        self._tier = tier
        self._batch = batch
        self._turns = TurnWriter(tier, history)
        self._pace = pace
        self._is_cuttable = tier.kinds == {Kind.DELTA}
        self._resting: dict[CacheEntry, float] = {}
        """When the state of each session has rested: the earliest first."""
        self._jobs: dict[CacheEntry, _Job] = {}
        self._replaced: list[_Job] = []
        self._was_resting = False
        """What has just been replaced by the entry that is stored next."""
        self._pending: _Pending | None = None
        self._held = 0
        self._steps = 0

    # --- from the prompt cache ---

    def on_stored(self, entry: CacheEntry) -> None:
        """Have a system prompt written now, a session's state once it has rested."""
        if entry.retention in (RetentionClass.SYSTEM_PROMPT, RetentionClass.PINNED):
            self._add_job(entry, len(entry.tokens), is_essential=True)
        elif entry.retention is RetentionClass.SESSION or self._was_resting:
            self._rest(entry)
        for job in self._replaced:
            self._add_job(entry, job.stop, is_essential=job.is_essential)
        self._replaced, self._was_resting = [], False

    def on_used(self, entry: CacheEntry, length: int) -> None:
        """Have an anonymous prompt written; let a session's state rest anew."""
        if entry in self._resting:
            self._rest(entry)
        elif entry.retention is RetentionClass.ANONYMOUS:
            stop = length - length % CHUNK_TOKENS if self._is_cuttable else len(entry.tokens)
            self._add_job(entry, stop, is_essential=False)

    def on_dropped(self, entry: CacheEntry, *, is_replaced: bool) -> None:
        """Keep what is to be written of an evicted entry, if there is room; else forget it."""
        was_resting = self._resting.pop(entry, None) is not None
        job = self._jobs.get(entry)
        if is_replaced:
            self._was_resting |= was_resting
            if job is not None:
                self._replaced.append(job)
                self._remove(job)
        elif (was_resting or job is not None) and self._has_room(entry.nbytes):
            if was_resting:
                self._add_job(entry, len(entry.tokens), is_essential=True)
            self._jobs[entry].held = entry.nbytes
            self._held += entry.nbytes
        elif job is not None:
            self._remove(job)

    def on_cleared(self) -> None:
        """Forget everything, captured bytes too."""
        self._resting.clear()
        self._jobs.clear()
        self._turns.clear()
        self._pending = None
        self._held = 0

    # --- between steps ---

    @property
    def wait_seconds(self) -> float | None:
        """Return after how many seconds without a step `advance` is due; None: not at all."""
        if self._has_work:
            if not self._tier.store.is_writable:
                return OFF_WAIT
            return WAIT if self._waits_for_room else 0.0
        for rested_at in self._resting.values():
            return max(0.0, rested_at - self._tier.monotonic())
        return None

    def advance(self, *, is_idle: bool) -> None:
        """Do a small part of the writing: copy some bytes, and capture the next record.

        `is_idle`: no step is held up by a wait for the device.
        """
        self._steps += 1
        self._add_rested()
        if not self._has_work or not self._tier.store.is_writable:
            return
        self._turns.advance()
        pending = self._pending
        if pending is not None and pending.evaluated_at is not None:
            if not is_idle and self._steps - pending.evaluated_at < STEPS_UNTIL_READY:
                return
            self._copy(pending)
        if self._pending is None and self._jobs:
            self._pending = self._capture_next()
        if self._pending is not None and self._pending.evaluated_at is None:
            self._evaluate(self._pending)

    def finish(self, seconds: float) -> None:
        """Write all that is worth keeping, the sessions used last first, for `seconds` at most."""
        deadline = self._tier.monotonic() + seconds
        for entry in reversed(self._resting):
            self._add_job(entry, len(entry.tokens), is_essential=True)
        self._resting.clear()
        while self._has_work and self._tier.store.is_writable:
            left = deadline - self._tier.monotonic()
            if left <= 0:
                return
            if self._waits_for_room:
                self._tier.writer.drain(min(WAIT, left))
            self.advance(is_idle=True)

    # --- what is to be written ---

    def _rest(self, entry: CacheEntry) -> None:
        """Have the entry written later, and with it at most the entry that it goes on from.

        Without a cut, what an earlier turn has left serves only a chat that goes on from there.
        """
        self._resting.pop(entry, None)
        self._resting[entry] = self._tier.monotonic() + REST_SECONDS
        earlier = entry.within
        is_last = True
        while earlier is not None:
            if earlier.retention is RetentionClass.SESSION:
                if not is_last:
                    self._resting.pop(earlier, None)
                is_last = False
            earlier = earlier.within

    def _add_rested(self) -> None:
        while self._resting:
            entry, rested_at = next(iter(self._resting.items()))
            if rested_at > self._tier.monotonic():
                return
            del self._resting[entry]
            self._add_job(entry, len(entry.tokens), is_essential=True)

    def _add_job(self, entry: CacheEntry, stop: int, *, is_essential: bool) -> None:
        if entry.turns is not None:
            self._turns.add(entry.turns, stop)
        known = self._jobs.get(entry)
        if stop <= 0 or (known is not None and known.stop >= stop):
            return
        if known is not None:
            self._remove(known)
        missing = MissingRecords(self._tier, entry.tokens, stop)
        self._jobs[entry] = _Job(entry, stop, is_essential, missing)

    def _remove(self, job: _Job) -> None:
        del self._jobs[job.entry]
        self._held -= job.held
        if self._pending is not None and self._pending.job is job:
            self._pending = None

    # --- bytes ---

    @property
    def _has_work(self) -> bool:
        return bool(self._jobs) or self._turns.has_work

    @property
    def _waits_for_room(self) -> bool:
        pending = self._pending
        if not self._jobs:
            return self._turns.waits_for_room
        return pending is not None and pending.evaluated_at is None and not self._has_room(0)

    def _has_room(self, nbytes: int) -> bool:
        """Return True if there is room for `nbytes` beside all that is held, captured or queued."""
        captured = self._pending.copy.nbytes if self._pending is not None else 0
        taken = self._held + captured + self._tier.writer.queued.nbytes
        return taken + nbytes <= self._tier.queue_bytes

    def _capture_next(self) -> _Pending | None:
        """Capture the next record that is not on disk; nothing is computed yet.

        Evicted entries come first, because they take memory; then those that matter most.
        """
        job = min(self._jobs.values(), key=lambda job: (not job.held, not job.is_essential))
        found = job.missing.find(LINKS_A_STEP)
        if found is None:
            if job.missing.is_at_end:
                self._remove(job)
            return None
        kind, link = found
        try:
            with mx.stream(self._batch.stream):
                copy = RecordCopy(capture(job.entry.kv, kind, link.start, link.stop))
        except UnfitKv as error:
            log.debug(Entry("KV cannot be written to disk", reason=str(error)))
            self._remove(job)
            return None
        if copy.nbytes + self._held > self._tier.queue_bytes:
            self._remove(job)  # the record would have no room even in an empty queue
            return None
        return _Pending(job, kind, link, copy)

    def _evaluate(self, pending: _Pending) -> None:
        if self._has_room(0):
            with mx.stream(self._batch.stream):
                pending.copy.evaluate()
            pending.evaluated_at = self._steps

    def _copy(self, pending: _Pending) -> None:
        if not pending.copy.copy(COPY_BYTES):
            return
        if self._batch.errors_come_late:
            self._batch.confirm()  # raises if the bytes may be wrong
        self._pending = None
        link = pending.link
        record = Record(
            Address(pending.kind, link.key),
            link.parent,
            link.start,
            link.stop,
            self._seconds(pending),
            pending.copy.payload(),
        )
        self._tier.add(record, is_essential=pending.job.is_essential)

    def _seconds(self, pending: _Pending) -> float:
        """Return the prefill that a record saves; the end of an entry saves all of the entry."""
        start = pending.link.start if pending.kind is Kind.DELTA else 0
        rate = self._pace.rate
        return (pending.link.stop - start) * (1 / rate if rate else UNMEASURED)
