"""KV from disk for sequences that are about to start, read beside decoding.

A sequence whose prefix is on disk waits in line while threads read the records. The thread that
owns mlx fills a cache with them, a little in each step, and stores the cache in the prompt cache:
the sequence then starts as if the prefix had been resident, and others share it. Whatever fails,
the prompt is read as if there were nothing on disk.

A record that a process read shortly before its death is set aside. Such records are read once more,
while no other sequence is in work, and are used again when a step behind them went well. [child]
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx

from mlx_worker.engine.kv.disk.arrays import UnfitKv
from mlx_worker.engine.kv.disk.chain_read import ChainRead, FromDisk
from mlx_worker.engine.kv.disk.forms import forms_of
from mlx_worker.engine.kv.disk.given_up import GivenUpReads
from mlx_worker.engine.kv.disk.reading_choice import ReadingChoice
from mlx_worker.engine.kv.disk.reading_plan import addresses_of, names_of
from mlx_worker.engine.kv.disk.restoring import Restoration
from mlx_worker.engine.kv.prefix import common_prefix
from mlx_worker.engine.prefill import WORTH_WAITING
from mlx_worker.kv_disk.files.records import Kind
from mlx_worker.kv_disk.memory import read_bytes
from mlx_worker.kv_disk.reader import DiskReader
from mlx_worker.logs import Entry
from mlx_worker.wire.messages import PrefillProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.batch import Batch
    from mlx_worker.engine.kv.disk.reading_plan import ReadPlan
    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.engine.kv.prompt_cache import PromptCache
    from mlx_worker.engine.kv.retention import KvRetention
    from mlx_worker.engine.prefill import ChunkSizer
    from mlx_worker.engine.sequence import Sequence

log = logging.getLogger(__name__)

READS: Final = 2
"""Chains that are read at a time: each takes the memory of its whole KV."""

PIECE: Final = 0.002
PIECE_ALONE: Final = 0.05
"""Seconds of a step in which records become arrays, beside decoding rows and without them."""

JOIN_BYTES: Final = 32 << 20
"""Bytes of the layers that are joined in one step, about: one layer at least."""

PATIENCE: Final = 10.0
"""Seconds without a record after which a read is given up: a disk may hang."""


class DiskReading:
    """Find, read and restore KV of one engine's sequences.

    Sequences are told by their `asked_disk` that they need not ask again, and by their `from_disk`
    what was read for them.
    """

    def __init__(
        self,
        tier: DiskTier,
        model: Any,
        batch: Batch,
        cache: PromptCache,
        retention: KvRetention,
        pace: ChunkSizer,
    ) -> None:
        self._tier = tier
        self._forms = forms_of(model)
        self._batch = batch
        self._cache = cache
        self._retention = retention
        self._choice = ReadingChoice(tier, batch, cache, pace)
        self._is_cuttable = tier.kinds == {Kind.DELTA}
        self._monotonic = tier.monotonic
        self._reader = DiskReader(
            tier.store, read_bytes(tier.cache_bytes), monotonic=tier.monotonic
        )
        self._reads: list[ChainRead] = []
        self._in_line: dict[int, int] = {}
        """The bytes of KV for which a sequence waits, because other chains are being read."""
        self._trial: tuple[Sequence, ReadPlan] | None = None
        self._given_up = GivenUpReads(self._reader)
        self._progress_at = 0.0
        self._is_usable = self._set_suspects_aside()  # before any read

    # --- what the admission asks ---

    def has_to_wait(self, sequence: Sequence, *, is_alone: bool) -> bool:
        """Return True if a sequence waits for the disk; start to read what the disk has for it."""
        if self._trial is not None and self._trial[0] is not sequence:
            return True  # records under suspicion are tried apart
        if sequence.asked_disk or sequence.scorer is not None:  # all of a scored prompt is read
            return False
        waits_for = self._in_line.get(sequence.id)
        is_in_line = waits_for is not None and not self._has_place(waits_for)
        if is_in_line or self._joins(sequence):
            return True
        tokens = sequence.prompt.tokens[:-1]  # the model must read the last one
        plan = None
        if self._is_usable and not self._given_up.hang:
            plan = self._choice.plan(sequence, tokens, is_alone=is_alone)
        self._in_line.pop(sequence.id, None)
        if plan is None:
            sequence.asked_disk = True
        elif self._has_place(plan.nbytes):
            self._begin(sequence, tokens, plan)
        else:
            self._in_line[sequence.id] = plan.nbytes
        return plan is not None

    def is_read_for(self, sequence: Sequence) -> bool:
        """Return True if a read is under way for a sequence."""
        return any(sequence in read.waiting for read in self._reads)

    # --- what the engine asks ---

    def wake_by(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, on another thread, when `advance` has something to do."""
        self._reader.on_loaded = wake

    @property
    def is_reading(self) -> bool:
        """True if a read is under way."""
        return bool(self._reads)

    @property
    def has_work(self) -> bool:
        """True if the next `advance` has something to do."""
        return self._reader.has_loaded or any(read.is_complete for read in self._reads)

    @property
    def seconds_left(self) -> float | None:
        """Return after how many seconds `advance` gives a read up; None: there is none."""
        if not self._reads:
            return None
        return max(0.0, self._progress_at + PATIENCE - self._monotonic())

    def advance(self, *, is_decoding: bool) -> list[PrefillProgress]:
        """Go on with what was read, for a small part of a step."""
        self._end_trial()
        until = time.perf_counter() + (PIECE if is_decoding else PIECE_ALONE)
        progress: list[PrefillProgress] = []
        for read in list(self._reads):
            if not read.is_announced:  # before any byte of a record is used
                read.is_announced = True
                progress += read.announcement()
                continue
            before = len(read.added)
            self._add_loaded(read, until)
            if len(read.added) > before:
                progress += [
                    PrefillProgress(sequence.id, read.done, len(sequence.prompt.tokens))
                    for sequence in read.waiting
                ]
            if read.is_complete:
                self._finish(read)
            elif self.seconds_left == 0:
                log.warning(Entry("the disk does not answer: a prompt is read instead"))
                self._given_up.add(read.disk)
                self._lose(read, min(set(range(read.limit)) - read.added))
        return progress

    def forget(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended in line; what no other waits for is not read."""
        self._in_line.pop(sequence.id, None)
        for read in list(self._reads):
            if sequence in read.waiting:
                read.waiting.remove(sequence)
                if not read.waiting:
                    self._drop(read)

    def clear(self) -> None:
        """Drop everything that is being read: the prompts are read by the model."""
        for read in list(self._reads):
            for sequence in read.waiting:
                sequence.asked_disk = True
            self._drop(read)

    def _set_suspects_aside(self) -> bool:
        """Set records aside that a process read before its death; False if the disk hangs."""
        suspects = addresses_of(self._tier.disk.suspects)
        done = threading.Event()

        def set_aside() -> None:
            self._tier.store.suspect(suspects)
            done.set()

        if suspects:
            self._reader.call(set_aside)
        return not suspects or done.wait(PATIENCE)

    # --- inside: choosing ---

    def _joins(self, sequence: Sequence) -> bool:
        """Have a sequence wait for a read that serves it too; False if there is none."""
        for read in self._reads:
            if sequence in read.waiting:
                return True
            shared = common_prefix(sequence.prompt.tokens[:-1], read.tokens)
            usable = shared if self._is_cuttable or shared == len(read.tokens) else 0
            if (
                usable >= WORTH_WAITING
                and usable - self._choice.resident(sequence) >= WORTH_WAITING
            ):
                read.waiting.append(sequence)
                return True
        return False

    def _has_place(self, nbytes: int) -> bool:
        """Return True if a chain of `nbytes` can be read beside those that are being read."""
        has_room = self._cache.reserved + nbytes <= self._choice.room
        return not self._reads or (len(self._reads) < READS and has_room)

    def _end_trial(self) -> None:
        """Use records again that were tried, once a step behind them went well."""
        if self._trial is None or self.is_read_for(self._trial[0]):
            return
        sequence, plan = self._trial
        was_computed = sequence.read > sequence.cached or sequence.produced > sequence.replayed
        if sequence.from_disk is not None and was_computed:
            addresses = [record.address for record in plan.records]
            self._reader.call(partial(self._tier.store.absolve, addresses))
        elif sequence.from_disk is not None and not sequence.over:
            return
        self._trial = None

    # --- inside: reading ---

    def _begin(self, sequence: Sequence, tokens: list[int], plan: ReadPlan) -> None:
        base: list[Any] = []
        with mx.stream(self._batch.stream):
            if plan.start:
                base = self._cache.fetch(sequence.prompt.tokens, plan.start)[0] or []
            # What is restored has room at once, and until it is a part of the cache.
            self._cache.shrink_to_budget(self._batch.prompt_cache_nbytes + plan.nbytes)
            restoration = Restoration(
                self._tier.new_cache(), self._forms, base=base, start=plan.start
            )
        sequence.asked_disk = True
        if plan.is_trial:
            self._trial = sequence, plan
        disk = self._reader.read(
            [record.address for record in plan.records],
            [record.nbytes for record in plan.records],
            apart=plan.is_trial,
        )
        if not self._reads:  # else a disk that hangs would hang for longer
            self._progress_at = self._monotonic()
        self._cache.reserved += plan.nbytes
        self._reads.append(
            ChainRead(
                tokens[: plan.length],
                plan,
                disk,
                restoration,
                [sequence],
                len(plan.records),
            )
        )

    def _add_loaded(self, read: ChainRead, until: float) -> None:
        """Add records that were loaded, until a moment."""
        while time.perf_counter() < until and (loaded := self._reader.take(read.disk)):
            self._progress_at = self._monotonic()
            record = read.plan.records[loaded.place]
            if loaded.payload is None:
                self._lose(read, loaded.place)
                continue
            try:
                with mx.stream(self._batch.stream):
                    read.restoration.add(
                        record.address.kind, record.start, record.stop, loaded.payload
                    )
            except UnfitKv as error:
                log.warning(Entry("a record of KV on disk is deleted", reason=str(error)))
                self._reader.call(partial(self._tier.store.delete, record.address))
                self._lose(read, loaded.place)
            else:
                read.added.add(loaded.place)

    def _lose(self, read: ChainRead, place: int) -> None:
        """Go on without the records from a place on; they are of no use without this one.

        A window or a state belongs to the very end: without the end there is nothing.
        """
        read.limit = min(read.limit, place) if self._is_cuttable else 0
        self._reader.cut(read.disk, read.limit)

    def _finish(self, read: ChainRead) -> None:
        """Join the layers; after the last one, store the cache for all that wait."""
        stop = read.stop
        if stop - read.plan.resident < WORTH_WAITING:
            self._drop(read)
            return
        try:
            with mx.stream(self._batch.stream):
                if not read.restoration.join(stop, JOIN_BYTES):
                    return
        except UnfitKv as error:
            log.warning(Entry("KV on disk is not used", reason=str(error)))
            self._drop(read)
            return
        self._drop(read)
        used = read.plan.records[: read.limit]
        first = read.waiting[0]
        self._retention.store_restored(first, read.tokens[:stop], read.restoration.cache)
        for sequence in read.waiting:
            sequence.from_disk = FromDisk(read.plan.start, stop, names_of(used))
        self._choice.speed.record(sum(record.nbytes for record in used), read.disk.seconds)
        tokens = stop - read.plan.resident
        saved = self._choice.prefill(read.plan) * tokens / read.plan.gain - read.disk.seconds
        self._tier.record_hit(tokens, saved)

    def _drop(self, read: ChainRead) -> None:
        self._reads.remove(read)
        self._cache.reserved -= read.plan.nbytes
        self._reader.cut(read.disk, 0)
