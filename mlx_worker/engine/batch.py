"""Mlx_lm's batch, with a decode step that does nothing nobody asked for.

What differs from `BatchGenerator` is that a chunk of prompts waits for the device once, and how a
step chooses its tokens: rows with the same settings are drawn in one call, each by its own key,
log-probabilities are cut out for the rows that report them only, and rows with a grammar are drawn
from what it allows. mlx_lm calls a sampler for each row unless all share one, and cuts a slice for
every row. The tokens are the same; `tests/fidelity` holds it to that. Written against mlx-lm 0.32,
whose `prompt` and `_step` it replaces. [child]
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from mlx_worker.engine.guard import Evidence
from mlx_worker.engine.sampling import RowSampler, draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.prompt_scores import PromptScorer

CLEAR_EVERY: Final = 2048
"""Places read, padding included, after which the device gives back what it no longer needs."""


class Batch(BatchGenerator):  # type: ignore[misc]  # mlx_lm has no types
    """A batch of rows, whose samplers are all `sampling.RowSampler`s.

    `on_read` is told how many tokens of prompts were read in how many seconds. `on_encoded` is
    called in each decode step when the device has been given the step and has raised nothing,
    before the tokens of the step before are read.
    """

    def __init__(
        self,
        model: Any,
        *,
        on_read: Callable[[int, float], None],
        on_encoded: Callable[[], None],
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        # What is admitted later is joined to these two, and takes on their kind.
        self._prompt_batch = _Readers.empty(model, self.sampler)
        self._prompt_batch.on_read = on_read
        self._generation_batch = _Decoders.empty(model, self.sampler)
        self._generation_batch.on_encoded = on_encoded

    @property
    def decodes(self) -> bool:
        """True if the next step computes tokens, and reads those that are being computed."""
        return len(self._generation_batch) > 0

    @property
    def errors_come_late(self) -> bool:
        """True if what was read may be of a step whose error is yet to be raised.

        Not on a CPU: there an error belongs to what the failed step made, and reading raises it.
        """
        return bool(self.stream.device.type == mx.DeviceType.gpu)

    def confirm(self) -> None:
        """Raise the error of work that was given to the device before, where there was one.

        mlx raises such an error when the stream is next used: this is the smallest use.
        """
        with mx.stream(self.stream):
            mx.async_eval(mx.zeros((1,)))  # type: ignore[no-untyped-call]


class _Readers(PromptProcessingBatch):  # type: ignore[misc]
    """Rows that read their prompts."""

    uids: list[int]
    prompt_cache: list[Any]
    tokens: list[list[int]]
    samplers: list[Any]
    logits_processors: list[list[Any]]
    max_tokens: list[int]
    stop_sequences: list[Any]
    on_read: Callable[[int, float], None]
    _places = 0

    def prompt(self, tokens: list[list[int]]) -> None:
        """Read these tokens, a list a row."""
        if not tokens:
            return
        begun = time.perf_counter()
        for held, more in zip(self.tokens, tokens, strict=True):
            held.extend(more)
        lengths = [len(it) for it in tokens]
        longest = max(lengths)
        padding = [longest - length for length in lengths]
        is_padded = any(padding)
        if is_padded:
            for cache in self.prompt_cache:
                cache.prepare(lengths=lengths, right_padding=padding)
        rows = [it + [0] * missing for it, missing in zip(tokens, padding, strict=True)]
        logits = self.model(mx.array(rows), cache=self.prompt_cache)
        scored = [
            (scorer, measured)
            for place, scorer in self._scorers()
            if (measured := scorer.measure(logits[place, : lengths[place]])) is not None
        ]
        del logits  # those that no scorer asks for are never computed
        if is_padded:
            for cache in self.prompt_cache:
                cache.finalize()
        arrays = [array for _, measured in scored for array in measured.arrays]
        mx.eval([cache.state for cache in self.prompt_cache], arrays)
        for scorer, measured in scored:
            scorer.keep(measured)
        self._places += len(rows) * longest
        if self._places >= CLEAR_EVERY:
            self._places = 0
            mx.clear_cache()
        self.on_read(sum(lengths), time.perf_counter() - begun)

    def _scorers(self) -> list[tuple[int, PromptScorer]]:
        """Return the places of rows whose own tokens are scored; a warmed prompt draws nothing."""
        return [
            (place, row.scorer)
            for place, row in enumerate(self.samplers)
            if isinstance(row, RowSampler) and row.scorer is not None
        ]

    def split(self, indices: list[int]) -> _Readers:
        """Take these rows out; if that is all of them, without a copy of their KV."""
        if len(indices) < len(self.uids):
            return super().split(indices)  # type: ignore[no-any-return]
        taken = copy.copy(self)
        self._forget()
        return taken

    def generate(self, tokens: list[list[int]]) -> _Decoders:
        """Have all of them decode; `tokens` are the last of each prompt."""
        decoders = _Decoders(
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
        """All rows are somebody else's."""
        self.uids, self.prompt_cache, self.tokens = [], [], []
        self.samplers, self.logits_processors = [], []
        self.max_tokens, self.stop_sequences = [], []


def _ignore() -> None:
    """Take no notice of a step that was encoded: rows that join a batch have no reader yet."""


class _Decoders(GenerationBatch):  # type: ignore[misc]
    """Rows that decode.

    `_next_evidence` belongs to `_next_tokens`, a piece for each batch that joined since.
    """

    tokens: list[list[int]]
    samplers: list[RowSampler]
    logits_processors: list[list[Any]]
    _next_tokens: mx.array
    _next_logprobs: list[mx.array | None]
    _next_evidence: tuple[Evidence, ...] = ()
    on_encoded: Callable[[], None] = staticmethod(_ignore)
    evidence_of: Callable[[list[int], mx.array, mx.array], Evidence] = Evidence

    def extend(self, batch: _Decoders) -> None:
        """Take in the rows of another batch, with the evidence of their next tokens."""
        super().extend(batch)
        self._next_evidence += batch._next_evidence

    def _step(self) -> tuple[list[int], list[mx.array | None]]:
        """Compute the next tokens, and read those that were computed meanwhile.

        Raises ComputationFailed where those were drawn from logits that are none.
        """
        inputs, reported, evidence = self._next_tokens, self._next_logprobs, self._next_evidence
        computed = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        logits, contexts = self._processed(computed, inputs)
        # Before the greedy rows' argmax too: it decides ties, and mlx_lm does it.
        logprobs, normalizers = _normalized(logits)
        own, own_normalizers = (logprobs, normalizers) if not contexts else _normalized(computed)
        evidence_of_next = self.evidence_of(self.uids, own, own_normalizers)
        self._next_evidence = (evidence_of_next,)
        self._next_tokens = draw(self._allowed(logprobs, inputs), self.samplers)
        self._next_logprobs = [
            logprobs[place] if row.reports else None for place, row in enumerate(self.samplers)
        ]
        asked = [it for it in self._next_logprobs if it is not None]
        mx.async_eval(  # type: ignore[no-untyped-call]
            self._next_tokens, asked, contexts, evidence_of_next.least
        )
        self.on_encoded()
        mx.eval(inputs, [it for it in reported if it is not None])
        for piece in evidence:
            piece.check(self.uids)
        tokens: list[int] = inputs.tolist()  # type: ignore[assignment]
        for held, token in zip(self.tokens, tokens, strict=True):
            held.append(token)
        return tokens, reported

    def _allowed(self, logprobs: mx.array, inputs: mx.array) -> mx.array:
        """What is drawn from: for rows with a grammar, only what may follow, as if it were all.

        It takes the token before, which is on its way: the device works on this step meanwhile.
        """
        bound = [
            (place, row.constraint) for place, row in enumerate(self.samplers) if row.constraint
        ]
        if not bound:
            return logprobs
        mx.async_eval(logprobs)  # type: ignore[no-untyped-call]
        last: list[int] = inputs.tolist()  # type: ignore[assignment]
        width = logprobs.shape[-1]
        told = b"".join(constraint.next_after(last[place], width) for place, constraint in bound)
        places = mx.array([place for place, _ in bound])
        bytes_ = mx.array(memoryview(told))  # type: ignore[arg-type]  # mlx takes any buffer
        may_follow = bytes_.reshape(len(bound), width) != 0
        rows = mx.where(may_follow, logprobs[places], -mx.inf)
        drawn_from = mx.array(logprobs)  # what is reported stays what the model thought
        drawn_from[places] = rows - mx.logsumexp(rows, axis=-1, keepdims=True)
        return drawn_from

    def _processed(self, logits: mx.array, inputs: mx.array) -> tuple[mx.array, list[mx.array]]:
        """Penalties and biases, for the rows that have any."""
        if not any(self.logits_processors):
            return logits, []
        contexts: list[mx.array] = []
        rows: list[mx.array] = []
        for place, processors in enumerate(self.logits_processors):
            row = logits[place : place + 1]
            if processors:
                context = self._token_context[place].update_and_fetch(inputs[place : place + 1])
                contexts.append(context)
                for process in processors:
                    row = process(context, row)
            rows.append(row)
        return mx.concatenate(rows), contexts


def _normalized(logits: mx.array) -> tuple[mx.array, mx.array]:
    """Return logits (rows, vocabulary) as log-probabilities, and what was taken off each row."""
    normalizers = mx.logsumexp(logits, axis=-1, keepdims=True)
    return logits - normalizers, normalizers
