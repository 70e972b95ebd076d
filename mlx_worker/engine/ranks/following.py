"""The batch of a rank other than 0: it repeats the operations of rank 0.

The same code of mlx_lm runs as on rank 0, with the same rows, chunks and tokens, so that the ranks
meet in each collective. A rank computes its part of each forward, and samples nothing. [child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import can_trim_prompt_cache

from mlx_worker.engine.batch import _Readers, confirm_device
from mlx_worker.engine.decoding import Decoders
from mlx_worker.engine.kv.prompt_cache import copy_layers
from mlx_worker.engine.output.end_tokens import EndTokens
from mlx_worker.engine.ranks.digest import digest_of
from mlx_worker.engine.ranks.kv_list import NO_KV
from mlx_worker.engine.ranks.leading import shared
from mlx_worker.engine.ranks.operations import (
    BadOperation,
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
from mlx_worker.engine.sampling import RowSampler
from mlx_worker.wire.request import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.output.prompt_scores import PromptScorer
    from mlx_worker.engine.ranks.operations import AnyOperation


class Diverged(Exception):
    """Report that this rank has other rows or other KV than rank 0."""


@dataclass(frozen=True, slots=True)
class _Computed:
    """Logits of a prompt that rank 0 computes, and this rank has to compute with it."""

    arrays: tuple[mx.array, ...]


class _ComputeScores:
    """Compute the logits of a prompt as rank 0 does, for nothing but the collectives in them."""

    def measure(self, logits: mx.array) -> _Computed:
        """Return the logits."""
        return _Computed((logits,))

    def add(self, measured: _Computed) -> None:
        """Forget the logits."""


class _FollowingDecoders(Decoders):
    """Decode rows, with the tokens that rank 0 shares."""

    def _step(self) -> tuple[list[int], list[mx.array | None]]:
        inputs = self._next_tokens
        logits = self.model(inputs[:, None], cache=self.prompt_cache)
        # The logits too, though nothing reads them: collectives are behind the last KV. And before
        # the tokens are shared: all ranks need the same order.
        (zeros,) = mx.depends([mx.zeros(inputs.shape, dtype=mx.uint32)], [logits])
        self._next_tokens = shared(zeros)
        mx.async_eval(self._next_tokens)  # type: ignore[no-untyped-call]
        self.on_encoded()
        tokens: list[int] = inputs.tolist()  # type: ignore[assignment]
        for held, token in zip(self.tokens, tokens, strict=True):
            held.append(token)
        nothing: list[mx.array | None] = [None] * len(tokens)
        self._next_logprobs = nothing
        return tokens, nothing


class _FollowingReaders(_Readers):
    """Read prompts, whose rows become those of `_FollowingDecoders`."""

    @property
    def decoders(self) -> type[_FollowingDecoders]:
        """Return the class of the rows once their prompts are read."""
        return _FollowingDecoders


def _ignore_pace(tokens: int, seconds: float) -> None:
    """Ignore how fast a chunk was read: rank 0 chooses the chunks."""


class FollowingBatch(BatchGenerator):  # type: ignore[misc]  # mlx_lm has no types
    """A batch that carries out operations, with the KV that these have put under handles.

    `on_confirmed` is called in each step that decodes, once the device has been given the step and
    has raised nothing: the step before is done, and its tokens were read.
    """

    def __init__(self, model: Any, *, on_confirmed: Callable[[], None], **settings: Any) -> None:
        super().__init__(model, **settings)
        self._on_confirmed = on_confirmed
        self._kv: dict[int, list[Any]] = {}
        self._prompt_batch = _FollowingReaders.empty(model, self.sampler)
        self._prompt_batch.on_read = _ignore_pace
        self._generation_batch = _FollowingDecoders.empty(model, self.sampler)
        self._generation_batch.on_encoded = on_confirmed
        self.steps = 0

    @property
    def handles(self) -> set[int]:
        """Return the handles of the KV that this rank keeps outside the batch."""
        return set(self._kv)

    def carry_out(self, operation: AnyOperation) -> None:
        """Carry out one operation. Raises BadOperation or Diverged, or what mlx raises."""
        with mx.stream(self.stream):
            match operation:
                case Step():
                    self._run_step(operation)
                case Insert():
                    self._insert(operation)
                case Remove():
                    self.remove(operation.uids)
                case Extract() | Copy() | Free():
                    self._change_kv(operation)
                case _:
                    self._do_other(operation)

    def _change_kv(self, operation: Extract | Copy | Free) -> None:
        match operation:
            case Extract():
                found = self.extract_cache([operation.uid])
                if operation.uid not in found:
                    raise Diverged(f"there is no row {operation.uid}")
                self._keep(operation.kv, found[operation.uid][0])
            case Copy():
                source = self._of(operation.source)
                if operation.surplus and not can_trim_prompt_cache(source):
                    raise BadOperation(f"KV {operation.source} cannot be cut on this rank")
                self._keep(operation.kv, copy_layers(source, operation.surplus))
            case Free():
                for handle in operation.kv:
                    self._of(handle)
                    del self._kv[handle]

    def _do_other(self, operation: AnyOperation) -> None:
        match operation:
            case ClearMemory():
                mx.clear_cache()
            case Confirm():
                mx.synchronize(self.stream)
                confirm_device(self.stream)
                self._on_confirmed()
            case Compare():
                if digest_of(self, self._kv) != operation.digest:
                    raise Diverged("this rank has other rows or other KV than rank 0")
            case _:
                raise BadOperation(f"{type(operation).__name__} out of place")

    def _insert(self, row: Insert) -> None:
        scorer: Any = _ComputeScores() if row.is_scored else None
        self.insert_segments(
            [row.segments],
            [row.max_tokens],
            caches=[None if row.kv == NO_KV else self._of(row.kv)],
            all_tokens=[list(row.tokens)],
            samplers=[_sampler(scorer)],
            stop_sequences=[EndTokens(row.ends)],
        )

    def _run_step(self, step: Step) -> None:
        self.steps += 1
        self.prefill_step_size = step.chunk
        _, generated = self.next()
        ended = [row.prompt_cache for row in generated if row.prompt_cache is not None]
        for handle, kv in enumerate(ended, step.first):
            self._keep(handle, kv)

    def _keep(self, handle: int, kv: list[Any]) -> None:
        """Keep KV; evaluated, or lazy slices would keep the whole batch's KV alive."""
        mx.async_eval([layer.state for layer in kv])  # type: ignore[no-untyped-call]
        self._kv[handle] = kv

    def _of(self, handle: int) -> list[Any]:
        if handle not in self._kv:
            raise BadOperation(f"there is no KV {handle}")
        return self._kv[handle]


def _sampler(scorer: PromptScorer | None) -> RowSampler:
    return RowSampler(Sampling(seed=0, temperature=0), 1, scorer=scorer)
