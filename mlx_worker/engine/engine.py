"""The batch loop: mlx_lm's batch, admitted to and cancelled from between any two steps.

One engine has one model and one thread, which makes every mlx call. `admit` returns `Started`
before any prefill. `step` runs one decode step and at most one prefill chunk and returns what came
of both, all sequences in one `Step`. What a request leaves behind, finished or cancelled, goes to
the prompt cache. [child]
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_worker.engine.admission import BatchAdmission
from mlx_worker.engine.batch import Batch, batch_settings
from mlx_worker.engine.batch_support import is_cuttable, unbatched_because
from mlx_worker.engine.checks.computation import computing
from mlx_worker.engine.ending import ending, replayed
from mlx_worker.engine.history.history import TurnHistory
from mlx_worker.engine.history.memory import history_bytes
from mlx_worker.engine.kv.disk.entry_writer import EntryWriter
from mlx_worker.engine.kv.disk.reading import DiskReading
from mlx_worker.engine.kv.prompt_cache import MAX_BYTES, PromptCache
from mlx_worker.engine.kv.retention import KvRetention
from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.output.prompt_scores import largest_chunk
from mlx_worker.engine.prefill import PAUSE, ChunkSizer
from mlx_worker.engine.prompt import Prompt
from mlx_worker.engine.ranks.leading import LeadingBatch
from mlx_worker.engine.row_output import row_output
from mlx_worker.engine.sequence import Sequence, SequenceTable
from mlx_worker.engine.sequence_factory import SequenceFactory
from mlx_worker.engine.speculation.ladder import Ladder
from mlx_worker.engine.speculation.speculation import Speculation
from mlx_worker.errors import ConstraintFailed
from mlx_worker.wire.kv_cost import KvCost
from mlx_worker.wire.messages import PrefillProgress, RequestFailed, Started
from mlx_worker.wire.output import Done, FinishReason, PromptScores, RowOutput, StepOutput
from mlx_worker.wire.prompt_cache import PromptWarmed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.engine.kv.prompt_cache import CacheObserver
    from mlx_worker.engine.ranks.leading import OperationLog
    from mlx_worker.engine.speculation.draft_model import DraftModel
    from mlx_worker.engine.structured.constraint import Constraint
    from mlx_worker.wire.request import ChatRequest

UNKNOWN_COST = KvCost()
NO_LADDER = Ladder({}, "not measured")
EngineMessage = (
    Started | PromptWarmed | RequestFailed | PrefillProgress | PromptScores | StepOutput | Done
)


def _ignore() -> None:
    """Ignore that a step was encoded."""


class Engine:
    """Run the generations of one model, and return their wire messages.

    On a GPU mlx may raise an error one step late. Tokens that `step` returned are confirmed once
    `on_encoded` was called, in the next step, or, where `is_unconfirmed` is false, once `confirm`
    has returned. After any error but a `WorkerError` the engine may not be used again. `ranks` is
    told of all that is done to KV; None: this process has the whole model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        context_length: int,
        max_concurrency: int,
        cache_bytes: int = MAX_BYTES,
        kv: KvCost = UNKNOWN_COST,
        kv_bytes: int | None = None,
        prefill_pause: float = PAUSE,
        remember_turns: bool = True,
        on_encoded: Callable[[], None] = _ignore,
        ladder: Ladder = NO_LADDER,
        draft_model: DraftModel | None = None,
        disk: DiskTier | None = None,
        ranks: OperationLog | None = None,
        cache_observer: CacheObserver | None = None,
    ) -> None:
        self.speculation = Speculation(ladder, context_length, len(tokenizer), draft_model)
        self.cache = PromptCache(cache_bytes)
        self.context_length = context_length
        self.prefilled_tokens = self.decode_steps = 0
        self.unbatched = unbatched_because(model)
        self._tokenizer = tokenizer
        self._markers = Markers(tokenizer)
        turn_bytes = history_bytes(cache_bytes) if remember_turns else 0
        self.history = TurnHistory(self._markers, turn_bytes)
        if disk is not None:
            self.history.adopt(disk.take_turns())
        self._vocabulary = len(tokenizer)
        self._factory = SequenceFactory(model, tokenizer, self._markers, context_length)
        self._pace = ChunkSizer(prefill_pause)
        cuttable = is_cuttable(model)
        if ranks is not None:
            self.cache.copy_kv, self.cache.can_cut = ranks.copy, ranks.can_cut
            cuttable = cuttable and ranks.are_cuttable
        self._batch = self._new_batch(model, max_concurrency, on_encoded, ranks)
        self.entry_writer = (
            EntryWriter(disk, self._batch, self._pace, self.history) if disk else None
        )
        observers = (self.entry_writer, cache_observer)
        self.cache.observers = tuple(observer for observer in observers if observer is not None)
        self._sequences = SequenceTable()
        self._retention = KvRetention(self._batch, self.cache, is_cuttable=cuttable)
        self.disk_reading = (
            DiskReading(disk, model, self._batch, self.cache, self._retention, self._pace)
            if disk
            else None
        )
        self._admission = BatchAdmission(
            self._sequences,
            self._batch,
            self.cache,
            self._retention,
            kv_cost=kv,
            kv_bytes=kv_bytes,
            is_cuttable=cuttable,
            disk=self.disk_reading,
        )

    def _new_batch(
        self,
        model: Any,
        max_concurrency: int,
        on_encoded: Callable[[], None],
        ranks: OperationLog | None,
    ) -> Batch:
        new_batch = Batch if ranks is None else partial(LeadingBatch, log=ranks)
        return new_batch(
            model,
            on_read=self._pace.record,
            on_encoded=on_encoded,
            speculation=None if self.speculation.off else self.speculation,
            **batch_settings(1 if self.unbatched else max_concurrency),
        )

    @property
    def awaits_disk(self) -> bool:
        """True if `step` has nothing to do before a record is read from disk."""
        return not self._sequences.by_uid and self._admission.awaits_disk

    @property
    def active(self) -> int:
        """Return how many sequences are not finished."""
        return len(self._sequences.by_id)

    @property
    def has_prefill(self) -> bool:
        """True if the next step reads a prompt."""
        return bool(self._sequences.waiting or self._sequences.readers())

    @property
    def is_unconfirmed(self) -> bool:
        """True if returned messages may be used only after the next `on_encoded`."""
        return self._batch.errors_come_late and self._batch.decodes

    def confirm(self) -> None:
        """Raise the error of earlier work on a GPU, if there was one; do not wait."""
        if self._batch.errors_come_late:
            self._batch.confirm()

    def start_threads(self) -> None:
        """Start the thread that computes on a CPU, as the first use of a stream of mlx does."""
        self._batch.confirm()

    # --- admission ---

    def admit(
        self,
        id_: int,
        request: ChatRequest,
        prompt: Prompt,
        *,
        replay: list[int] | None = None,
        in_session: bool = False,
        constraint: Constraint | None = None,
        room: int | None = None,
    ) -> Started | Done | None:
        """Admit a request. None: the request waits, and a later `step` returns its `Started`.

        `replay` are the tokens that a former process generated: they are read like a prompt, and
        the answer continues behind them; Done, if the answer had ended. The KV of a request
        `in_session` is kept longer. `constraint` is the compiled one of the request. `room` is how
        many tokens a former process allowed: an answer that has begun does not end earlier because
        this process has less memory for the context. Raises ContextLengthExceeded, KvTooLarge or
        InvalidRequest, with the numbers, before any work; ComputationFailed for an error of mlx.
        """
        sequence = self._factory.make(id_, request, prompt, replay or [], constraint, room)
        sequence.in_session = in_session
        if replay and (end := replayed(sequence, replay)) is not None:
            return end
        with computing():
            sequence.processors = self._factory.processors(request, prompt)
            self.speculation.start(sequence, prompt.prediction)
            started = self._admission.enqueue(sequence)
        assert started is None or isinstance(started, Started)
        return started

    def admit_warm(
        self, id_: int, tokens: list[int], system_prompt: str
    ) -> PromptWarmed | RequestFailed | None:
        """Prefill and pin a system prompt; the answer at once if the prompt is resident already.

        Raises ContextLengthExceeded or KvTooLarge.
        """
        self._factory.checks.check_warm(len(tokens))
        # The batch reads all but the last token of a prompt before decoding: a token is appended
        # for that, and is never read.
        sequence = Sequence(id_, Prompt([*tokens, 0], len(tokens), system_prompt), None)
        if not tokens:
            self.cache.record_warmed(0, system_prompt)
            return PromptWarmed(id_, 0)
        message = self._admission.enqueue(sequence)
        assert not isinstance(message, Started)
        return message

    def cancel(self, id_: int) -> Done | None:
        """Free a row now and store its KV. None: there is no such row."""
        sequence = self._sequences.by_id.get(id_)
        if sequence is None:
            return None
        self.history.remember(sequence)  # first: the KV is stored with the turns in it
        self._remove(sequence, keep=True)
        return Done(id_, "cancelled", sequence.produced)

    def cancel_all(self) -> None:
        """Free all rows and store their KV."""
        for id_ in list(self._sequences.by_id):
            self.cancel(id_)

    # --- steps ---

    def step(self) -> list[EngineMessage]:
        """Run one decode step for all rows, then at most one chunk of prefill."""
        messages: list[EngineMessage] = []
        if self.disk_reading is not None:
            messages += self.disk_reading.advance(is_decoding=bool(self._sequences.by_uid))
        messages += self._admission.start_waiting()
        prompts, generated = self._next()
        for response in prompts:
            messages += self._prefilled(response)
        if generated:
            self.decode_steps += 1
            rows: list[RowOutput] = []
            ends: list[EngineMessage] = []
            for response in generated:
                if response.uid not in self._sequences.by_uid:
                    continue  # its text ended at an earlier token of the same step
                sequence = self._sequences.by_uid[response.uid]
                rows.append(row_output(sequence, response, self._markers, self._batch.stream))
                end = self._end(sequence, response)
                if end is not None:
                    ends.append(end)
            messages.append(StepOutput(rows))
            messages += ends
        if self.entry_writer is not None:
            self.entry_writer.advance(is_idle=False)
        return messages

    def clear_cache(self) -> None:
        """Forget every cached prompt; running rows keep theirs."""
        self.cache.clear()
        if self.disk_reading is not None:
            self.disk_reading.clear()
        self.history.clear()
        self._batch.clear_memory()

    def trim_cache(self, nbytes: int) -> None:
        """Evict cached prompts of at least `nbytes` bytes, and give the memory back."""
        self.cache.trim(nbytes)
        self._batch.clear_memory()

    # --- inside ---

    def _next(self) -> tuple[list[Any], list[Any]]:
        readers = self._sequences.readers()
        if not readers:
            return self._batch.next()  # type: ignore[no-any-return]
        decoding = len(self._sequences.by_uid) > len(readers)
        most = largest_chunk(readers, self._vocabulary)
        self._batch.prefill_step_size = self._pace.chunk_size(readers, decoding=decoding, most=most)
        return self._batch.next()  # type: ignore[no-any-return]

    # --- results of a step ---

    def _prefilled(self, response: Any) -> list[EngineMessage]:
        sequence = self._sequences.by_uid[response.uid]
        done, total = response.progress
        sequence.read = sequence.cached + done
        messages: list[EngineMessage] = [
            PrefillProgress(sequence.id, sequence.cached + done, sequence.cached + total)
        ]
        cut = response.end_of_segment and sequence.read in sequence.segment_ends
        if sequence.text is None:
            if cut:
                kv, tokens = self._retention.extract(sequence)
                self._remove(sequence, keep=False)
                messages.append(self._retention.pin(sequence.id, sequence.prompt, tokens, kv))
            return messages
        if sequence.scorer is not None:
            messages.append(sequence.scorer.message(sequence.id, is_last=response.end_of_prompt))
        if response.end_of_prompt:
            self.prefilled_tokens += total
            self.cache.record_use(sequence.prompt.system_prefix, sequence.prompt.system)
            if sequence.max_tokens == 0:
                self._remove(sequence, keep=True)
                messages.append(ending(sequence, sequence.text, "length"))
        elif cut:
            self._retention.store_segment(sequence)
        return messages

    def _end(self, sequence: Sequence, response: Any) -> Done | RequestFailed | None:
        text, constraint = sequence.text, sequence.constraint
        assert text is not None
        complete = constraint is not None and constraint.complete
        problem = constraint.problem if constraint is not None else ""
        left_batch = response.finish_reason is not None
        if not (left_batch or text.stopped or complete or problem or sequence.loops):
            return None
        if not problem:
            self.history.remember(sequence)  # first: the KV is stored with the turns in it
        if left_batch:
            self._sequences.remove(sequence)
            self._retention.store_ended(sequence, response.all_tokens, response.prompt_cache)
        else:
            if response.surplus:
                self._batch.retract(sequence.uid, response.surplus)
            self._remove(sequence, keep=True)
        if problem:
            return RequestFailed(sequence.id, ConstraintFailed.code, problem)
        natural: FinishReason = response.finish_reason or ("length" if sequence.loops else "stop")
        return ending(sequence, text, "stop" if complete else natural)

    def _remove(self, sequence: Sequence, *, keep: bool) -> None:
        in_batch = not sequence.waiting
        if keep and in_batch:
            self._retention.store_row(sequence)
        self._sequences.remove(sequence)
        if in_batch:
            self._batch.remove([sequence.uid])
        else:
            self._admission.forget(sequence)
