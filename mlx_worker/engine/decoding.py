"""Mlx_lm's batch of rows that decode, with a step that does only what requests need.

A step samples rows with the same settings in one call, each by its own key; log-probabilities are
sliced only for the rows that report them, and rows with a grammar are sampled from the tokens that
the grammar allows. A row whose budget of reasoning is spent gets the end of reasoning in place of
what was sampled. mlx_lm calls a sampler for each row unless all share one, and cuts a slice for
every row.

A step is wide where rows draft: the pass reads the next token of each row and drafted ones behind
it. Each position is sampled as it would be alone, by the key of its index, and a draft counts as
far as it is the same. The tokens are the same in both, which `tests/fidelity` checks. Written
against mlx-lm 0.32, whose `_step` is replaced. [child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.generate import GenerationBatch

from mlx_worker.engine.checks.computation import Evidence
from mlx_worker.engine.sampling import RowSampler, sample_rows
from mlx_worker.engine.speculation.kv import close_gap, cut, drop_last, free_columns
from mlx_worker.engine.speculation.speculation import WIDEST, Speculation

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
class _Chosen:
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
    speculation: Speculation | None = None
    _may_have_gap = False

    def __init__(self, *rows: Any, **settings: Any) -> None:
        self._runs: dict[int, list[TokenResponse]] = {}
        """Responses for the drafted tokens of this step, by the number of their row."""
        self._retracted: dict[int, int] = {}
        super().__init__(*rows, **settings)

    def extend(self, batch: Decoders) -> None:
        """Add the rows of another batch, with the evidence of their next tokens."""
        super().extend(batch)
        self._next_evidence += batch._next_evidence

    def next(self) -> list[TokenResponse]:
        """Run a step; several responses of a row, in order, where its drafts were right."""
        responses: list[TokenResponse] = super().next()
        if not self._runs:
            return responses
        runs, self._runs = self._runs, {}
        whole: list[TokenResponse] = []
        for response in responses:
            run = runs.get(response.uid, [])
            response.surplus = len(run)
            whole += [response, *run]
        return whole

    def retract(self, uid: int, count: int) -> None:
        """Take the last tokens of a row back, which is about to leave: its text ended before."""
        place = self.uids.index(uid)
        self.tokens[place] = self.tokens[place][:-count]
        self._retracted[uid] = count

    def extract_cache(self, idx: int) -> list[Any]:
        """Return the KV of a row, without tokens that were taken back."""
        kv: list[Any] = super().extract_cache(idx)
        if count := self._retracted.pop(self.uids[idx], 0):
            cut(kv, count)
        return kv

    def _step(self) -> tuple[list[int], list[mx.array | None]]:
        """Start computing the next tokens, and read those of the step before.

        Raises ComputationFailed where those were sampled from logits that were never computed.
        """
        if self.speculation is not None:
            if self._may_have_gap and not free_columns(self.prompt_cache):
                close_gap(self.prompt_cache, max(map(len, self.tokens)))
                self._may_have_gap = False
            drafts = self._drafts(self.speculation)
            width = 1 + max(map(len, drafts.values()), default=0)
            self.speculation.begin_step(len(self.uids), width)
            if drafts:
                return self._wide_step(drafts, self.speculation)
        inputs, reported, evidence = self._next_tokens, self._next_logprobs, self._next_evidence
        computed = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        chosen = self._choose(computed, inputs)
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

    def _choose(self, computed: mx.array, inputs: mx.array) -> _Chosen:
        """Return what follows `inputs`, by the logits (rows, vocabulary) that were computed."""
        logits, contexts = self._processed(computed, inputs)
        # Before the greedy rows' argmax too, as in mlx_lm: the rounding decides ties.
        logprobs, normalizers = _normalized(logits)
        own, own_normalizers = (logprobs, normalizers) if not contexts else _normalized(computed)
        evidence = self.evidence_of(self.uids, own, own_normalizers)
        sampled = sample_rows(self._allowed(logprobs, inputs), self.samplers)
        return _Chosen(self._with_forced(sampled, inputs), logprobs, evidence, contexts)

    # --- a wide step ---

    def _drafts(self, speculation: Speculation) -> dict[int, list[int]]:
        """Return drafts of rows by their places, where the next pass is to be wide.

        Waits for the tokens of the step before only where a draft is likely to pay.
        """
        rows = len(self.uids)
        if not speculation.pays(rows):
            return {}
        drafters = {
            place: row.drafter
            for place, row in enumerate(self.samplers)
            if row.drafter is not None and row.drafter.may_draft(self.tokens[place])
        }
        if not drafters:
            return {}
        # A wide pass does not make the KV grow before a narrow one would: that is accounted for.
        columns = free_columns(self.prompt_cache) or WIDEST
        longest = max(map(len, self.tokens)) + 1
        hoped = [(WIDEST - 1, drafter.hit_rate) for drafter in drafters.values()]
        if speculation.width(rows, hoped, longest, columns) == 1:
            return {}
        last: list[int] = self._next_tokens.tolist()  # type: ignore[assignment]
        drafts: dict[int, list[int]] = {}
        for place, drafter in drafters.items():
            # Never the last token that the row may have: a row ends at the first of a pass.
            left = self.max_tokens[place] - self._num_tokens[place] - 2
            if draft := drafter.draft(last[place], min(left, WIDEST - 1)):
                drafts[place] = draft
        found = [(len(draft), drafters[place].hit_rate) for place, draft in drafts.items()]
        width = speculation.width(rows, found, longest, columns)
        return {place: draft[: width - 1] for place, draft in drafts.items()} if width > 1 else {}

    def _wide_step(
        self, drafts: dict[int, list[int]], speculation: Speculation
    ) -> tuple[list[int], list[mx.array | None]]:
        """Compute what follows the next tokens and the drafts, and keep what is right of these.

        Raises ComputationFailed as `_step` does, and for the tokens that this step adds.
        """
        inputs, reported, evidence = self._next_tokens, self._next_logprobs, self._next_evidence
        last: list[int] = inputs.tolist()  # type: ignore[assignment]
        computed = self.model(_padded(last, drafts, inputs.dtype), cache=self.prompt_cache)
        chosen = self._choose(computed[:, 0, :], inputs)
        places = [place for place, draft in drafts.items() for _ in draft]
        offsets = [offset for draft in drafts.values() for offset in range(1, 1 + len(draft))]
        logprobs, normalizers = _normalized(computed[mx.array(places), mx.array(offsets)])
        behind = self.evidence_of([self.uids[place] for place in places], logprobs, normalizers)
        sampled = sample_rows(logprobs, [self.samplers[place] for place in places])
        mx.async_eval(  # type: ignore[no-untyped-call]
            chosen.tokens, sampled, chosen.contexts, chosen.evidence.least, behind.least
        )
        self.on_encoded()
        first: list[int] = chosen.tokens.tolist()  # type: ignore[assignment]
        further: list[int] = sampled.tolist()  # type: ignore[assignment]
        for piece in (*evidence, chosen.evidence, behind):
            piece.check(self.uids)
        follows = [
            [(token, chosen.logprobs[place] if self.samplers[place].reports else None)]
            for place, token in enumerate(first)
        ]
        for number, (place, token) in enumerate(zip(places, further, strict=True)):
            is_reported = self.samplers[place].reports
            follows[place].append((token, logprobs[number] if is_reported else None))
        accepted = self._accept(last, drafts, follows, speculation)
        drop_last(self.prompt_cache, [computed.shape[1] - 1 - count for count in accepted])
        self._may_have_gap |= min(accepted) < max(accepted)
        ahead = [row[count] for row, count in zip(follows, accepted, strict=True)]
        self._next_tokens = mx.array([token for token, _ in ahead], dtype=inputs.dtype)
        self._next_logprobs = [reported for _, reported in ahead]
        self._next_evidence = ()
        return last, reported

    def _accept(
        self,
        last: list[int],
        drafts: dict[int, list[int]],
        follows: list[list[tuple[int, mx.array | None]]],
        speculation: Speculation,
    ) -> list[int]:
        """Add the tokens of this step to the rows, and return how many of them were drafted.

        `follows` has for each row what follows its last token and each of its drafted ones.
        """
        counts: list[int] = []
        for place, token in enumerate(last):
            draft = drafts.get(place, [])
            count = 0
            while count < len(draft) and draft[count] == follows[place][count][0]:
                count += 1
            counts.append(count)
            self.tokens[place] += [token, *draft[:count]]
            if not draft:
                continue
            self._num_tokens[place] += count
            self.samplers[place].take_back(len(draft) - count)
            speculation.record(len(draft), count)
            if (drafter := self.samplers[place].drafter) is not None:
                drafter.record(len(draft), count, len(self.tokens[place]))
            self._runs[self.uids[place]] = [
                TokenResponse(self.uids[place], *follow, None, None, None, count - 1 - number)
                for number, follow in enumerate(follows[place][:count])
            ]
        return counts

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


def _padded(last: list[int], drafts: dict[int, list[int]], dtype: mx.Dtype) -> mx.array:
    """Return the tokens that a wide pass reads: the last of each row, and the row's draft."""
    width = 1 + max(map(len, drafts.values()))
    rows = [[token, *drafts.get(place, ())] for place, token in enumerate(last)]
    return mx.array([row + [0] * (width - len(row)) for row in rows], dtype=dtype)
