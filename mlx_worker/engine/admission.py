"""The queue in front of the batch: which sequence starts when, and with which KV.

Sequences start in the order of their arrival, but for those that wait for a prefix that an earlier
sequence reads. No sequence overtakes another that waits for memory. [child]
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from mlx_worker.config.sizes import in_words
from mlx_worker.engine.output.end_tokens import EndTokens
from mlx_worker.engine.prefill import (
    can_start_prefill,
    choose_segment_ends,
    find_prefix_leader,
    fits,
    has_prefill_slot,
)
from mlx_worker.errors import KvTooLarge
from mlx_worker.wire.messages import RequestFailed, Started
from mlx_worker.wire.prompt_cache import PromptWarmed

if TYPE_CHECKING:
    from mlx_worker.engine.batch import Batch
    from mlx_worker.engine.kv.disk.reading import DiskReading
    from mlx_worker.engine.kv.prompt_cache import PromptCache
    from mlx_worker.engine.kv.retention import KvRetention
    from mlx_worker.engine.sequence import Sequence, SequenceTable
    from mlx_worker.wire.kv_cost import KvCost

Begun = Started | PromptWarmed | RequestFailed


class BatchAdmission:
    """Admit the sequences of one engine to its batch.

    `kv_bytes` bounds the KV of all rows, by `kv_cost`; None: there is no bound. `disk` reads KV
    from disk; None: no KV is there.
    """

    def __init__(
        self,
        sequences: SequenceTable,
        batch: Batch,
        cache: PromptCache,
        retention: KvRetention,
        *,
        kv_cost: KvCost,
        kv_bytes: int | None,
        is_cuttable: bool,
        disk: DiskReading | None = None,
    ) -> None:
        self._sequences = sequences
        self._batch = batch
        self._cache = cache
        self._retention = retention
        self._kv_cost = kv_cost
        self._kv_bytes = kv_bytes
        self._is_cuttable = is_cuttable
        self._disk = disk
        self._has_changed = False

    @property
    def awaits_disk(self) -> bool:
        """True if no waiting sequence can start before a record is read."""
        disk = self._disk
        return disk is not None and disk.is_reading and not (disk.has_work or self._has_changed)

    def forget(self, sequence: Sequence) -> None:
        """Forget what a waiting sequence that has ended waited for."""
        self._has_changed = True
        if self._disk is not None:
            self._disk.forget(sequence)

    def enqueue(self, sequence: Sequence) -> Begun | None:
        """Start a sequence now, or have it wait: None. Raises KvTooLarge."""
        self._check_memory(sequence)
        if sequence.scorer is None:  # all tokens of a scored prompt are read
            find_prefix_leader(
                sequence, self._sequences.by_id.values(), any_length=self._is_cuttable
            )
        self._sequences.add(sequence)
        self._has_changed = True
        if len(self._sequences.waiting) > 1:
            return None
        try:
            return next(iter(self.start_waiting()), None)
        except BaseException:
            self._sequences.remove(sequence)  # the client gets the error: no cancel will come
            raise

    def start_waiting(self) -> list[Begun]:
        """Start the waiting sequences that may start, in the order of their arrival."""
        self._has_changed = False
        if not self._sequences.waiting:
            return []
        begun: list[Begun] = []
        are_restored = False
        rows = list(self._sequences.by_uid.values())
        readers = self._sequences.readers()
        for sequence in list(self._sequences.waiting):
            if not has_prefill_slot(readers):
                break
            if self._may_start(sequence, readers):
                if not fits(sequence, rows, self._kv_cost, self._kv_bytes):
                    break  # a sequence that is overtaken might wait for ever
                if self._waits_for_disk(sequence):
                    continue
                self._sequences.waiting.remove(sequence)
                message = self._start(sequence)
                are_restored |= sequence.from_disk is not None
                if sequence.reading:
                    rows.append(sequence)
                    readers.append(sequence)
                if message is not None:
                    begun.append(message)
        if are_restored:
            self._retention.shrink()
        return begun

    def _check_memory(self, sequence: Sequence) -> None:
        limited = sequence.bounded
        if limited and not fits(sequence, [], self._kv_cost, self._kv_bytes):
            # Clients ask for far more than models generate: an answer whose limit does not fit is
            # counted as it grows.
            sequence.bounded = False
        if not fits(sequence, [], self._kv_cost, self._kv_bytes):
            raise KvTooLarge(
                f"the request needs KV of {sequence.expected_kv_tokens} tokens, "
                f"{in_words(self._kv_cost.nbytes(sequence.expected_kv_tokens))}; "
                f"this model has {in_words(self._kv_bytes or 0)} for KV",
                param="max_tokens" if limited else "messages",
            )

    def _may_start(self, sequence: Sequence, readers: list[Sequence]) -> bool:
        if self._disk is not None and self._disk.is_read_for(sequence):
            return False
        resident = partial(self._cache.resident, sequence.prompt.tokens)
        return can_start_prefill(sequence, readers, resident)

    def _waits_for_disk(self, sequence: Sequence) -> bool:
        # A prompt that is warmed waits for no client: it tries no records under suspicion.
        is_alone = len(self._sequences.by_id) == 1 and sequence.text is not None
        return self._disk is not None and self._disk.has_to_wait(sequence, is_alone=is_alone)

    def _start(self, sequence: Sequence) -> Begun | None:
        """Put a sequence into the batch; None for a prompt to be warmed, which has no `Started`."""
        self._retention.store_for_follower(sequence)
        tokens = sequence.prompt.tokens
        kv, cached = self._retention.fetch(sequence)
        if kv is not None and sequence.text is None and cached == sequence.prompt.system_prefix:
            # A prompt to be warmed that is resident already: there is nothing to read.
            self._sequences.remove(sequence)
            return self._retention.pin(sequence.id, sequence.prompt, tokens[:cached], kv)
        sequence.segment_ends = (
            [sequence.prompt.system_prefix]
            if sequence.text is None
            else choose_segment_ends(sequence.prompt, cached, every_segment=not self._is_cuttable)
        )
        ends = [cached, *sequence.segment_ends, len(tokens)]
        (uid,) = self._batch.insert_segments(
            [[tokens[begin:end] for begin, end in pairwise(ends)]],
            [max(1, sequence.max_tokens)],  # mlx_lm has no rows without an answer
            caches=[kv],
            all_tokens=[tokens[:cached]],
            samplers=[sequence.sampler],
            logits_processors=[sequence.processors],
            stop_sequences=[EndTokens(sequence.ends)],
        )
        sequence.cached = sequence.read = cached
        if sequence.from_disk is not None:
            sequence.stored_tokens = cached  # just now: followers need no copy
        self._sequences.enter_batch(sequence, uid)
        return None if sequence.text is None else self._started(sequence)

    def _started(self, sequence: Sequence) -> Started:
        prompt, asked = sequence.prompt, len(sequence.prompt.tokens) - sequence.replayed
        known = prompt.system_prefix > 0 and not sequence.system_prefix_is_new
        miss = (
            self._cache.explain_miss(prompt.tokens[: prompt.system_prefix])
            if sequence.system_prefix_is_new
            else ""
        )
        room = sequence.max_tokens + sequence.replayed
        cached = min(sequence.cached, asked)
        disk = sequence.from_disk
        disk_tokens = 0 if disk is None else max(0, min(cached, disk.stop) - disk.start)
        return Started(
            sequence.id,
            asked,
            cached,
            known,
            miss,
            room,
            parting=prompt.parting,
            splices=list(prompt.splices),
            disk_tokens=disk_tokens,
            disk_records=[] if disk is None or not disk_tokens else list(disk.names),
        )
