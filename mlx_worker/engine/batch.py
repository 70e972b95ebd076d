"""Mlx_lm's batch, with a prefill and a decode step that do only what requests need.

A chunk of prompts waits for the device once; what differs in a decode step is in `decoding`.
Written against mlx-lm 0.32, whose `prompt` is replaced. [child]
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, PromptProcessingBatch

from mlx_worker.engine.decoding import Decoders
from mlx_worker.engine.prefill import LARGEST_CHUNK, READERS
from mlx_worker.engine.sampling import RowSampler
from mlx_worker.engine.speculation.decoding import DraftingDecoders

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.output.prompt_scores import PromptScorer
    from mlx_worker.engine.speculation.speculation import Speculation

CLEAR_EVERY: Final = 2048
"""Tokens read, padding included, after which the device frees unused memory."""


def batch_settings(rows: int) -> dict[str, Any]:
    """Return the sizes of a batch that decodes `rows` rows at once."""
    return {
        "completion_batch_size": rows,
        # Those that have read all but the last token still count with mlx_lm's readers.
        "prefill_batch_size": min(2 * READERS, rows),
        "prefill_step_size": LARGEST_CHUNK,
    }


class Batch(BatchGenerator):  # type: ignore[misc]  # mlx_lm has no types
    """Run rows, whose samplers are all `sampling.RowSampler`s.

    `on_read` is given how many prompt tokens were read in how many seconds. `on_encoded` is
    called in each decode step when the device has been given the step and has raised nothing,
    before the tokens of the step before are read. `speculation` None: no row drafts.
    """

    def __init__(
        self,
        model: Any,
        *,
        on_read: Callable[[int, float], None],
        on_encoded: Callable[[], None],
        speculation: Speculation | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        # Rows that are admitted later join these two, and take on their classes.
        self._prompt_batch = self.readers.empty(model, self.sampler)
        self._prompt_batch.on_read = on_read
        kind = self._prompt_batch.decoders if speculation is None else DraftingDecoders
        self._generation_batch = kind.empty(model, self.sampler)
        self._generation_batch.on_encoded = on_encoded
        self._generation_batch.speculation = speculation
        self.errors_come_late = bool(self.stream.device.type == mx.DeviceType.gpu)
        """True if tokens that were read may belong to a step whose error is not raised yet.

        Not on a CPU: there, reading the results of a failed step raises its error.
        """

    @property
    def readers(self) -> type[_Readers]:
        """Return the class of the rows while their prompts are read."""
        return _Readers

    @property
    def decodes(self) -> bool:
        """True if the next step computes tokens, and reads those of the step before."""
        return len(self._generation_batch) > 0

    @property
    def prompt_cache_nbytes(self) -> int:
        """Return the bytes of the KV of all rows, that of the draft model included."""
        speculation = self._generation_batch.speculation
        model = None if speculation is None else speculation.draft_model
        nbytes: int = super().prompt_cache_nbytes
        return nbytes + (0 if model is None else model.nbytes)

    def retract(self, uid: int, count: int) -> None:
        """Take the last tokens of a decoding row back, before the row leaves."""
        self._generation_batch.retract(uid, count)

    def clear_memory(self) -> None:
        """Give unused memory back to the operating system."""
        mx.clear_cache()

    def confirm(self) -> None:
        """Raise the error of earlier work of the device, if there was one."""
        confirm_device(self.stream)


def confirm_device(stream: mx.Stream) -> None:
    """Raise the error of earlier work of a device, if there was one; do not wait for that work.

    mlx raises such an error when the stream is next used: this is the smallest use.
    """
    with mx.stream(stream):
        mx.async_eval(mx.zeros((1,)))  # type: ignore[no-untyped-call]


class _Readers(PromptProcessingBatch):  # type: ignore[misc]
    """Read the prompts of rows."""

    uids: list[int]
    prompt_cache: list[Any]
    tokens: list[list[int]]
    samplers: list[Any]
    logits_processors: list[list[Any]]
    max_tokens: list[int]
    stop_sequences: list[Any]
    on_read: Callable[[int, float], None]
    _places = 0

    @property
    def decoders(self) -> type[Decoders]:
        """Return the class of the rows once their prompts are read."""
        return Decoders

    def prompt(self, tokens: list[list[int]]) -> None:
        """Read these tokens, a list for each row."""
        if not tokens:
            return
        begun = time.perf_counter()
        for held, more in zip(self.tokens, tokens, strict=True):
            held.extend(more)
        lengths = [len(row) for row in tokens]
        longest = max(lengths)
        padding = [longest - length for length in lengths]
        is_padded = any(padding)
        if is_padded:
            for cache in self.prompt_cache:
                cache.prepare(lengths=lengths, right_padding=padding)
        rows = [row + [0] * missing for row, missing in zip(tokens, padding, strict=True)]
        logits = self.model(mx.array(rows), cache=self.prompt_cache)
        scored = [
            (scorer, measured)
            for place, scorer in self._scorers()
            if (measured := scorer.measure(logits[place, : lengths[place]])) is not None
        ]
        del logits  # logits that no scorer uses are never computed
        if is_padded:
            for cache in self.prompt_cache:
                cache.finalize()
        arrays = [array for _, measured in scored for array in measured.arrays]
        mx.eval([cache.state for cache in self.prompt_cache], arrays)
        for scorer, measured in scored:
            scorer.add(measured)
        self._places += len(rows) * longest
        if self._places >= CLEAR_EVERY:
            self._places = 0
            mx.clear_cache()
        self.on_read(sum(lengths), time.perf_counter() - begun)

    def _scorers(self) -> list[tuple[int, PromptScorer]]:
        """Return places and scorers of rows whose prompts are scored; warmed ones have none."""
        return [
            (place, row.scorer)
            for place, row in enumerate(self.samplers)
            if isinstance(row, RowSampler) and row.scorer is not None
        ]

    def split(self, indices: list[int]) -> _Readers:
        """Take these rows out; if these are all rows, without a copy of their KV."""
        if len(indices) < len(self.uids):
            return super().split(indices)  # type: ignore[no-any-return]
        taken = copy.copy(self)
        self._forget()
        return taken

    def generate(self, tokens: list[list[int]]) -> Decoders:
        """Return all rows as decoders; `tokens` are the last of each prompt."""
        decoders = self.decoders(
            self.model,
            self.uids,
            mx.array([last for (last,) in tokens]),
            self.prompt_cache,
            self.tokens,
            self.samplers,
            self.fallback_sampler,
            self.logits_processors,
            self.stop_sequences,
            self.max_tokens,
        )
        self._forget()
        return decoders

    def _forget(self) -> None:
        """Drop all rows: another batch has them now."""
        self.uids, self.prompt_cache, self.tokens = [], [], []
        self.samplers, self.logits_processors = [], []
        self.max_tokens, self.stop_sequences = [], []
