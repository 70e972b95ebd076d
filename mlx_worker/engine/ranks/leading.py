"""The batch of rank 0, which tells the other ranks of each operation.

The operation goes out before rank 0 gives its own device any work of it: mlx lets a process queue
only so much work, so that rank 0 would wait for the others, and the others for the operation. Idle
ranks wait on their socket, without using the CPU. The sampled tokens of a step are shared by a sum
over the ranks, to which the others give zeros.

A part of a sum may be wrong by an error that the device of another rank has not raised yet. So the
output of a step leaves rank 0 in the next step, when each rank has confirmed. [child]
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import can_trim_prompt_cache

from mlx_worker.engine.batch import Batch, _Readers
from mlx_worker.engine.checks.computation import ComputationFailed
from mlx_worker.engine.decoding import Decoders
from mlx_worker.engine.kv.prompt_cache import copy_layers
from mlx_worker.engine.ranks.digest import digest_of
from mlx_worker.engine.ranks.kv_list import NO_KV, KvList
from mlx_worker.engine.ranks.operations import (
    ClearMemory,
    Compare,
    Confirm,
    Copy,
    Extract,
    Free,
    Insert,
    Remove,
    Step,
)
from mlx_worker.errors import ProtocolViolation
from mlx_worker.wire.framing import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_lm.generate import BatchGenerator

    from mlx_worker.engine.ranks.operations import AnyOperation

COMPARE_EVERY: Final = 64
"""Steps after which the ranks compare what they have in common."""


class OperationLog:
    """Send the operations of rank 0 to the other ranks, in order; `send` writes to all of them.

    `wait` waits until each has confirmed once more; both raise OSError or ProtocolViolation.
    `are_cuttable`: the KV of each other rank can be cut at any token. Rank 0 may have none of the
    layers whose KV cannot.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        wait: Callable[[], None],
        *,
        are_cuttable: bool = True,
    ) -> None:
        self._send_bytes = send
        self._wait = wait
        self.are_cuttable = are_cuttable
        self._handles: set[int] = set()
        self._last = NO_KV
        self._dropped: deque[int] = deque()
        """Handles of KV that rank 0 has dropped, on whichever thread."""

    @property
    def next_handle(self) -> int:
        """Return the handle that KV gets next."""
        return self._last + 1

    def append(self, operation: AnyOperation) -> None:
        """Send an operation; what rank 0 has dropped before is freed first.

        Raises ComputationFailed if a rank is gone: no request is to be answered with that.
        """
        self._free_dropped()
        self._send(operation)

    def confirm(self) -> None:
        """Wait until each rank has done its work without an error. Raises ComputationFailed."""
        self.append(Confirm())
        self.wait_until_confirmed()

    def wait_until_confirmed(self) -> None:
        """Wait until each rank has confirmed once more. Raises ComputationFailed."""
        try:
            self._wait()
        except (OSError, ProtocolViolation) as error:
            raise ComputationFailed(f"another rank is gone: {error}") from error

    def compare(self, batch: BatchGenerator) -> None:
        """Have the other ranks compare a digest of this batch with their own."""
        self._free_dropped()
        # What is dropped from here on is freed behind this operation.
        self._send(Compare(digest_of(batch, self._handles)))

    def _free_dropped(self) -> None:
        freed: list[int] = []
        while self._dropped:
            freed.append(self._dropped.popleft())
        if freed:
            self._handles.difference_update(freed)
            self._send(Free(freed))

    def _send(self, operation: AnyOperation) -> None:
        try:
            self._send_bytes(encode(operation))
        except OSError as error:
            raise ComputationFailed(f"another rank is gone: {error.strerror}") from error

    def own(self, layers: list[Any]) -> KvList:
        """Return KV with the next handle; its end frees the handle."""
        self._last += 1
        kv = KvList(layers, self._last)
        self._handles.add(kv.handle)
        weakref.finalize(kv, self._dropped.append, kv.handle).atexit = False
        return kv

    def copy(self, kv: list[Any], surplus: int) -> list[Any]:
        """Return a copy of KV, without the last `surplus` tokens, on all ranks."""
        copied = self.own(copy_layers(kv, surplus))
        self.append(Copy(_handle_of(kv), surplus, copied.handle))
        return copied

    def can_cut(self, kv: list[Any]) -> bool:
        """Return True if this KV can be cut on all ranks."""
        return self.are_cuttable and bool(can_trim_prompt_cache(kv))


def _handle_of(kv: list[Any]) -> int:
    assert isinstance(kv, KvList), "all KV outside the batch has a handle"
    return kv.handle


def shared(tokens: mx.array) -> mx.array:
    """Return the tokens that rank 0 has sampled, on every rank; other ranks give zeros."""
    return mx.distributed.all_sum(tokens.astype(mx.uint32))


class _LeadingDecoders(Decoders):
    """Decode rows, and share what is sampled."""

    def _share(self, tokens: mx.array) -> mx.array:
        """Return the next tokens, as every rank has them."""
        return shared(tokens)


class _LeadingReaders(_Readers):
    """Read prompts, whose rows become those of `_LeadingDecoders`."""

    @property
    def decoders(self) -> type[_LeadingDecoders]:
        """Return the class of the rows once their prompts are read."""
        return _LeadingDecoders


class LeadingBatch(Batch):
    """A batch that the other ranks repeat."""

    def __init__(
        self, model: Any, log: OperationLog, *, on_encoded: Callable[[], None], **settings: Any
    ) -> None:
        super().__init__(model, on_encoded=self._on_encoded, **settings)
        self._log = log
        self._on_confirmed = on_encoded
        self._steps = 0
        self.errors_come_late = True  # those of other ranks

    def _on_encoded(self) -> None:
        self._log.wait_until_confirmed()
        self._on_confirmed()

    def confirm(self) -> None:
        """Raise the error of earlier work of any rank, if there was one."""
        super().confirm()
        self._log.confirm()

    @property
    def readers(self) -> type[_LeadingReaders]:
        """Return the class of the rows while their prompts are read."""
        return _LeadingReaders

    def insert_segments(
        self,
        segments: list[list[list[int]]],
        max_tokens: list[int],
        *,
        caches: list[list[Any] | None],
        all_tokens: list[list[int]],
        samplers: list[Any],
        stop_sequences: list[Any],
        **others: Any,
    ) -> list[int]:
        """Put rows into the batch of each rank."""
        # mlx_lm takes the lists apart as it reads them.
        rows = [
            Insert(
                [list(segment) for segment in row],
                most,
                NO_KV if kv is None else _handle_of(kv),
                list(tokens),
                list(ends.tokens),
                sampler is not None and sampler.scorer is not None,
            )
            for row, most, kv, tokens, sampler, ends in zip(
                segments, max_tokens, caches, all_tokens, samplers, stop_sequences, strict=True
            )
        ]
        uids: list[int] = super().insert_segments(
            segments,
            max_tokens,
            caches=caches,
            all_tokens=all_tokens,
            samplers=samplers,
            stop_sequences=stop_sequences,
            **others,
        )
        for row in rows:
            self._log.append(row)
        return uids

    def next(self) -> tuple[list[Any], list[Any]]:
        """Run a step on each rank; KV of rows that ended has handles."""
        self._steps += 1
        if self._steps % COMPARE_EVERY == 0:
            self._log.compare(self)
        self._log.append(Step(self.prefill_step_size, self._log.next_handle))
        prompts, generated = super().next()
        for response in generated:
            if response.prompt_cache is not None:
                response.prompt_cache = self._log.own(response.prompt_cache)
        return prompts, generated

    def remove(self, uids: list[int], return_prompt_caches: bool = False) -> Any:
        """Take rows out of the batch of each rank."""
        removed = super().remove(uids, return_prompt_caches)
        self._log.append(Remove(uids))
        return removed

    def extract_cache(self, uids: list[int]) -> dict[int, tuple[list[Any], list[int]]]:
        """Return copies of the KV of rows, which have handles, and the rows' tokens."""
        found: dict[int, tuple[list[Any], list[int]]] = {}
        for uid, (kv, tokens) in super().extract_cache(uids).items():
            owned = kv if isinstance(kv, KvList) else self._log.own(kv)
            if owned is not kv:
                self._log.append(Extract(uid, owned.handle))
            found[uid] = (owned, tokens)
        return found

    def clear_memory(self) -> None:
        """Give unused memory of each rank back."""
        super().clear_memory()
        self._log.append(ClearMemory())
