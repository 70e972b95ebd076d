"""Mlx_lm's batch, with a decode step that does only what requests need.

Two things differ from `BatchGenerator`. A chunk of prompts waits for the device once. A step
samples rows with the same settings in one call, each by its own key; log-probabilities are sliced
only for the rows that report them, and rows with a grammar are sampled from the tokens that the
grammar allows. A row whose budget of reasoning is spent gets the end of reasoning in place of what
was sampled. mlx_lm calls a sampler for each row unless all share one, and cuts a slice for every
row. The tokens are the same, which `tests/fidelity` checks. Written against mlx-lm 0.32, whose
`prompt` and `_step` are replaced. [child]
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from mlx_worker.engine.checks.computation import Evidence
from mlx_worker.engine.prefill import LARGEST_CHUNK, READERS
from mlx_worker.engine.sampling import RowSampler, sample_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.output.prompt_scores import PromptScorer

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
        # Rows that are admitted later join these two, and take on their classes.
        self._prompt_batch = self.readers.empty(model, self.sampler)
        self._prompt_batch.on_read = on_read
        self._generation_batch = self._prompt_batch.decoders.empty(model, self.sampler)
        self._generation_batch.on_encoded = on_encoded

    @property
    def readers(self) -> type[_Readers]:
        """Return the class of the rows while their prompts are read."""
        return _Readers

    @property
    def decodes(self) -> bool:
        """True if the next step computes tokens, and reads those of the step before."""
        return len(self._generation_batch) > 0

    @property
    def errors_come_late(self) -> bool:
        """True if tokens that were read may belong to a step whose error is not raised yet.

        Not on a CPU: there, reading the results of a failed step raises its error.
        """
        return bool(self.stream.device.type == mx.DeviceType.gpu)

    def clear_memory(self) -> None:
        """Give unused memory back to the operating system."""
        mx.clear_cache()

    def confirm(self) -> None:
        """Raise the error of earlier work of the device, if there was one.

        mlx raises such an error when the stream is next used: this is the smallest use.
        """
        with mx.stream(self.stream):
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
    def decoders(self) -> type[_Decoders]:
        """Return the class of the rows once their prompts are read."""
        return _Decoders

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

    def generate(self, tokens: list[list[int]]) -> _Decoders:
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


def _ignore() -> None:
    """Ignore that a step was encoded: rows that join a batch have no reader yet."""


class _Decoders(GenerationBatch):  # type: ignore[misc]
    """Decode rows.

    `_next_evidence` belongs to `_next_tokens`, an item for each batch that joined since.
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
        """Add the rows of another batch, with the evidence of their next tokens."""
        super().extend(batch)
        self._next_evidence += batch._next_evidence

    def _step(self) -> tuple[list[int], list[mx.array | None]]:
        """Start computing the next tokens, and read those of the step before.

        Raises ComputationFailed where those were sampled from logits that were never computed.
        """
        inputs, reported, evidence = self._next_tokens, self._next_logprobs, self._next_evidence
        computed = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        logits, contexts = self._processed(computed, inputs)
        # Before the greedy rows' argmax too, as in mlx_lm: the rounding decides ties.
        logprobs, normalizers = _normalized(logits)
        own, own_normalizers = (logprobs, normalizers) if not contexts else _normalized(computed)
        evidence_of_next = self.evidence_of(self.uids, own, own_normalizers)
        self._next_evidence = (evidence_of_next,)
        sampled = sample_rows(self._allowed(logprobs, inputs), self.samplers)
        self._next_tokens = self._share(self._with_forced(sampled, inputs))
        self._next_logprobs = [
            logprobs[place] if row.reports else None for place, row in enumerate(self.samplers)
        ]
        wanted = [row for row in self._next_logprobs if row is not None]
        mx.async_eval(  # type: ignore[no-untyped-call]
            self._next_tokens, wanted, contexts, evidence_of_next.least
        )
        self.on_encoded()
        mx.eval(inputs, [row for row in reported if row is not None])
        for piece in evidence:
            piece.check(self.uids)
        tokens: list[int] = inputs.tolist()  # type: ignore[assignment]
        for held, token in zip(self.tokens, tokens, strict=True):
            held.append(token)
        return tokens, reported

    def _share(self, tokens: mx.array) -> mx.array:
        """Return the next tokens, as every process that computes this batch has them."""
        return tokens

    def _allowed(self, logprobs: mx.array, inputs: mx.array) -> mx.array:
        """Return the log-probabilities to sample from: with a grammar, of allowed tokens only.

        The grammar needs the token before, so this waits for that token; the device works on this
        step meanwhile.
        """
        bound = [
            (place, row.constraint) for place, row in enumerate(self.samplers) if row.constraint
        ]
        if not bound:
            return logprobs
        mx.async_eval(logprobs)  # type: ignore[no-untyped-call]
        last: list[int] = inputs.tolist()  # type: ignore[assignment]
        width = logprobs.shape[-1]
        allowed = b"".join(constraint.next_after(last[place], width) for place, constraint in bound)
        places = mx.array([place for place, _ in bound])
        bytes_ = mx.array(memoryview(allowed))  # type: ignore[arg-type]  # mlx takes any buffer
        may_follow = bytes_.reshape(len(bound), width) != 0
        rows = mx.where(may_follow, logprobs[places], -mx.inf)
        drawn_from = mx.array(logprobs)  # reported probabilities stay the model's own
        drawn_from[places] = rows - mx.logsumexp(rows, axis=-1, keepdims=True)
        return drawn_from

    def _with_forced(self, sampled: mx.array, inputs: mx.array) -> mx.array:
        """Return the next tokens, those that a budget of reasoning forces in place of sampled ones.

        A row at the edge of its budget needs the token before, so this waits for that token; the
        device works on this step meanwhile.
        """
        budgets = [(place, row.budget) for place, row in enumerate(self.samplers) if row.budget]
        if not budgets:
            return sampled
        last: list[int] = []
        forced: dict[int, int] = {}
        for place, budget in budgets:
            if budget.catch_up(self.tokens[place]):
                if not last:
                    mx.async_eval(sampled)  # type: ignore[no-untyped-call]
                    last = inputs.tolist()  # type: ignore[assignment]
                budget.add(last[place])
            if (token := budget.take_forced()) is not None:
                forced[place] = token
        if not forced:
            return sampled
        tokens = mx.array(sampled)
        tokens[mx.array([*forced])] = mx.array([*forced.values()], dtype=sampled.dtype)
        return tokens

    def _processed(self, logits: mx.array, inputs: mx.array) -> tuple[mx.array, list[mx.array]]:
        """Return the logits after penalties and biases, and the tokens that these depend on."""
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
    """Return the log-probabilities of logits (rows, vocabulary), and each row's normalizer."""
    normalizers = mx.logsumexp(logits, axis=-1, keepdims=True)
    return logits - normalizers, normalizers
