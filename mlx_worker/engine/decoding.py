"""Mlx_lm's batch of rows that decode, with a step that does only what requests need.

A step samples rows with the same settings in one call, each by its own key; log-probabilities are
sliced only for the rows that report them, and rows with a grammar are sampled from the tokens that
the grammar allows. A row whose budget of reasoning is spent gets the end of reasoning in place of
what was sampled. mlx_lm calls a sampler for each row unless all share one, and cuts a slice for
every row.

The tokens are the same in both, which `tests/fidelity` checks. Written against mlx-lm 0.32, whose
`_step` is replaced. Steps of rows that draft are in `speculation/decoding`. [child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.generate import GenerationBatch

from mlx_worker.engine.checks.computation import Evidence
from mlx_worker.engine.sampling import RowSampler, sample_rows

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class TokenResponse:
    """Hold one token of a row; `surplus` tokens of the same row follow in the same step.

    The fields are mlx_lm's, but for the last.
    """

    uid: int
    token: int
    logprobs: mx.array | None
    finish_reason: Any
    prompt_cache: list[Any] | None
    all_tokens: list[int] | None
    surplus: int = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """Hold the tokens that follow others, and what they were chosen by."""

    tokens: mx.array
    logprobs: mx.array
    evidence: Evidence
    contexts: list[mx.array]


def _ignore() -> None:
    """Ignore that a step was encoded: rows that join a batch have no reader yet."""


class Decoders(GenerationBatch):  # type: ignore[misc]
    """Decode rows.

    `_next_evidence` belongs to `_next_tokens`, an item for each batch that joined since.
    """

    Response = TokenResponse

    uids: list[int]
    prompt_cache: list[Any]
    max_tokens: list[int]
    tokens: list[list[int]]
    samplers: list[RowSampler]
    logits_processors: list[list[Any]]
    _num_tokens: list[int]
    _next_tokens: mx.array
    _next_logprobs: list[mx.array | None]
    _next_evidence: tuple[Evidence, ...] = ()
    on_encoded: Callable[[], None] = staticmethod(_ignore)
    evidence_of: Callable[[list[int], mx.array, mx.array], Evidence] = Evidence

    def extend(self, batch: Decoders) -> None:
        """Add the rows of another batch, with the evidence of their next tokens."""
        super().extend(batch)
        self._next_evidence += batch._next_evidence

    def _step(self) -> tuple[list[int], list[mx.array | None]]:
        """Start computing the next tokens, and read those of the step before.

        Raises ComputationFailed where those were sampled from logits that were never computed.
        """
        inputs, reported, evidence = self._next_tokens, self._next_logprobs, self._next_evidence
        computed = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        chosen = self.choose(computed, inputs)
        self._next_tokens, self._next_evidence = chosen.tokens, (chosen.evidence,)
        self._next_logprobs = [
            chosen.logprobs[place] if row.reports else None
            for place, row in enumerate(self.samplers)
        ]
        wanted = [row for row in self._next_logprobs if row is not None]
        mx.async_eval(  # type: ignore[no-untyped-call]
            self._next_tokens, wanted, chosen.contexts, chosen.evidence.least
        )
        self.on_encoded()
        mx.eval(inputs, [row for row in reported if row is not None])
        for piece in evidence:
            piece.check(self.uids)
        tokens: list[int] = inputs.tolist()  # type: ignore[assignment]
        for held, token in zip(self.tokens, tokens, strict=True):
            held.append(token)
        return tokens, reported

    def choose(self, computed: mx.array, inputs: mx.array) -> Chosen:
        """Return what follows `inputs`, by the logits (rows, vocabulary) that were computed."""
        logits, contexts = self._processed(computed, inputs)
        # Before the greedy rows' argmax too, as in mlx_lm: the rounding decides ties.
        logprobs, normalizers = normalized(logits)
        own, own_normalizers = (logprobs, normalizers) if not contexts else normalized(computed)
        evidence = self.evidence_of(self.uids, own, own_normalizers)
        sampled = sample_rows(self._allowed(logprobs, inputs), self.samplers)
        return Chosen(self._share(self._with_forced(sampled, inputs)), logprobs, evidence, contexts)

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


def normalized(logits: mx.array) -> tuple[mx.array, mx.array]:
    """Return the log-probabilities of logits (rows, vocabulary), and each row's normalizer."""
    normalizers = mx.logsumexp(logits, axis=-1, keepdims=True)
    return logits - normalizers, normalizers
