"""Decode rows that draft: several tokens of a row in one step, the same as one by one.

A step is wide where rows draft: the pass reads the next token of each row and drafted ones behind
that one. Each position is sampled as it would be alone, by the key of its index, and a draft counts
as far as it is the same. [child]
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlx_worker.engine.decoding import Decoders, TokenResponse, normalized
from mlx_worker.engine.sampling import sample_rows
from mlx_worker.engine.speculation.kv import close_gap, cut, drop_last, free_columns
from mlx_worker.engine.speculation.speculation import WIDEST, Speculation


class DraftingDecoders(Decoders):
    """Decode rows, of which those with a drafter draft where `speculation` expects a gain."""

    speculation: Speculation
    _may_have_gap = False

    def __init__(self, *rows: Any, **settings: Any) -> None:
        self._runs: dict[int, list[TokenResponse]] = {}
        """Responses for the drafted tokens of this step, by the number of their row."""
        self._retracted: dict[int, int] = {}
        super().__init__(*rows, **settings)

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
        """Start computing the next tokens, and read those of the step before."""
        if self._may_have_gap and not free_columns(self.prompt_cache):
            close_gap(self.prompt_cache, max(map(len, self.tokens)))
            self._may_have_gap = False
        drafts = self._drafts()
        width = 1 + max(map(len, drafts.values()), default=0)
        self.speculation.begin_step(len(self.uids), width)
        return self._wide_step(drafts) if drafts else super()._step()

    def _drafts(self) -> dict[int, list[int]]:
        """Return drafts of rows by their places, where the next pass is to be wide.

        Waits for the tokens of the step before only where a draft is likely to pay.
        """
        speculation, rows = self.speculation, len(self.uids)
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

    def _wide_step(self, drafts: dict[int, list[int]]) -> tuple[list[int], list[mx.array | None]]:
        """Compute what follows the next tokens and the drafts, and keep what is right of these.

        Raises ComputationFailed as `_step` does, and for the tokens that this step adds.
        """
        inputs, reported, evidence = self._next_tokens, self._next_logprobs, self._next_evidence
        last: list[int] = inputs.tolist()  # type: ignore[assignment]
        computed = self.model(_padded(last, drafts, inputs.dtype), cache=self.prompt_cache)
        chosen = self.choose(computed[:, 0, :], inputs)
        places = [place for place, draft in drafts.items() for _ in draft]
        offsets = [offset for draft in drafts.values() for offset in range(1, 1 + len(draft))]
        logprobs, normalizers = normalized(computed[mx.array(places), mx.array(offsets)])
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
        accepted = self._accept(last, drafts, follows)
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
            self.speculation.record(len(draft), count)
            if (drafter := self.samplers[place].drafter) is not None:
                drafter.record(len(draft), count, len(self.tokens[place]))
            self._runs[self.uids[place]] = [
                TokenResponse(self.uids[place], *follow, None, None, None, count - 1 - number)
                for number, follow in enumerate(follows[place][:count])
            ]
        return counts


def _padded(last: list[int], drafts: dict[int, list[int]], dtype: mx.Dtype) -> mx.array:
    """Return the tokens that a wide pass reads: the last of each row, and the row's draft."""
    width = 1 + max(map(len, drafts.values()))
    rows = [[token, *drafts.get(place, ())] for place, token in enumerate(last)]
    return mx.array([row + [0] * (width - len(row)) for row in rows], dtype=dtype)
