"""What of the KV of a row is stored in the prompt cache, and when.

A row leaves its KV when the row ends, at the ends of prompt segments that later chats share, and
when another sequence waits for the prefix that the row has read. All calls belong to the thread
that owns mlx. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_worker.engine.history.memory import KnownTurns
from mlx_worker.engine.kv.prompt_cache import RetentionClass
from mlx_worker.engine.prefill import WORTH_WAITING, min_prefix_to_reuse
from mlx_worker.errors import CacheError
from mlx_worker.wire.messages import RequestFailed
from mlx_worker.wire.prompt_cache import PromptWarmed

if TYPE_CHECKING:
    from mlx_worker.engine.batch import Batch
    from mlx_worker.engine.kv.prompt_cache import PromptCache
    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.engine.sequence import Sequence


class KvRetention:
    """Move KV between the rows of one batch and one prompt cache.

    `is_cuttable`: the model's KV can be cut at any token.
    """

    def __init__(self, batch: Batch, cache: PromptCache, *, is_cuttable: bool) -> None:
        self._batch = batch
        self._cache = cache
        self._is_cuttable = is_cuttable

    def fetch(self, sequence: Sequence) -> tuple[list[Any] | None, int]:
        """Return the KV of the prefix that need not be read, and its length in tokens.

        All tokens of a prompt that is scored have to be read.
        """
        if sequence.scorer is not None:
            return None, 0
        with mx.stream(self._batch.stream):
            least = min_prefix_to_reuse(sequence.prompt.system_prefix)
            return self._cache.fetch(sequence.prompt.tokens, least)

    def extract(self, sequence: Sequence) -> tuple[list[Any], list[int]]:
        """Return the KV of a row of the batch, and its tokens."""
        with mx.stream(self._batch.stream):
            kv, tokens = self._batch.extract_cache([sequence.uid])[sequence.uid]
        return kv, tokens

    def store_row(self, sequence: Sequence) -> None:
        """Store what a row has read and generated so far."""
        kv, tokens = self.extract(sequence)
        self.store(tokens, kv, _kind_of(sequence), _turns_of(sequence))

    def store_ended(self, sequence: Sequence, tokens: list[int], kv: list[Any]) -> None:
        """Store the KV of a row that has left the batch by itself."""
        self.store(tokens, kv, _kind_of(sequence), _turns_of(sequence))

    def store(
        self,
        tokens: list[int],
        kv: list[Any],
        kind: RetentionClass,
        turns: KnownTurns | None = None,
    ) -> None:
        """Store the KV of exactly these tokens; without tokens, store nothing."""
        if tokens:
            self._detach(kv)
            self._cache.store(tokens, kv, kind, turns)
            self.shrink()

    def store_restored(self, sequence: Sequence, tokens: list[int], kv: list[Any]) -> None:
        """Store KV that was read from disk for a sequence, so that others share it.

        Nothing is evicted before the sequence starts, or rows that grew meanwhile might evict this
        KV itself: the caller calls `shrink` after the start.
        """
        is_system_prefix = len(tokens) == sequence.prompt.system_prefix
        kind = RetentionClass.SYSTEM_PROMPT if is_system_prefix else _kind_of(sequence)
        self._detach(kv)
        self._cache.store(tokens, kv, kind, None if is_system_prefix else _turns_of(sequence))

    def shrink(self) -> None:
        """Evict what is over the budget beside the rows of the batch."""
        self._cache.shrink_to_budget(self._batch.prompt_cache_nbytes)

    def store_segment(self, sequence: Sequence) -> None:
        """Store the KV up to the end of a segment, unless most of the segment was resident."""
        if sequence.read == sequence.prompt.system_prefix:
            kv, tokens = self.extract(sequence)
            self.store(tokens, kv, RetentionClass.SYSTEM_PROMPT)
        elif (
            sequence.read == sequence.segment_ends[-1]
            or sequence.read - sequence.cached >= WORTH_WAITING
        ):
            self.store_row(sequence)

    def store_for_follower(self, sequence: Sequence) -> None:
        """Store what the leader of `sequence` has read for both, while the leader goes on."""
        leader = sequence.prefix_leader
        sequence.prefix_leader = None
        if (
            leader is None
            or leader.over
            or leader.stored_tokens >= sequence.shared_prefix
            or not self._is_cuttable
        ):
            return
        leader.stored_tokens = leader.read
        self.store_row(leader)

    def pin(
        self, id_: int, prompt: Prompt, tokens: list[int], kv: list[Any]
    ) -> PromptWarmed | RequestFailed:
        """Store the KV of a warmed system prompt, and return the answer to its `Warm`."""
        self.store(tokens, kv, RetentionClass.PINNED)
        if self._cache.resident(tokens) < len(tokens):
            limit = f"cache_bytes is {self._cache.facts.capacity}"
            return RequestFailed(id_, CacheError.code, f"the prompt's KV does not fit: {limit}")
        self._cache.record_warmed(len(tokens), prompt.system)
        return PromptWarmed(id_, len(tokens))

    def _detach(self, kv: list[Any]) -> None:
        """Evaluate, or the lazy slice would keep the whole batch's KV alive; do not wait."""
        with mx.stream(self._batch.stream):
            mx.async_eval([layer.state for layer in kv])  # type: ignore[no-untyped-call]


def _kind_of(sequence: Sequence) -> RetentionClass:
    return RetentionClass.SESSION if sequence.in_session else RetentionClass.ANONYMOUS


def _turns_of(sequence: Sequence) -> KnownTurns | None:
    prompt = sequence.prompt
    if not prompt.splices and sequence.turn is None:
        return None
    return KnownTurns(prompt.splices, sequence.turn, len(prompt.tokens) - sequence.replayed)
