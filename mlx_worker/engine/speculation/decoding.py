"""Decode rows that draft: several tokens of a row in one step, the same as one by one.

A step is wide where rows draft: the pass reads the next token of each row and drafted ones behind
that one. Each position is sampled as it would be alone, by the key of its index, and a draft counts
as far as it is the same. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_worker.engine.decoding import Decoders, TokenResponse, normalized
from mlx_worker.engine.sampling import sample_rows
from mlx_worker.engine.speculation.draft_model import DraftAsk
from mlx_worker.engine.speculation.kv import close_gap, cut, drop_last, free_columns
from mlx_worker.engine.speculation.speculation import WIDEST, Speculation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.engine.speculation.drafter import Drafter


class DraftingDecoders(Decoders):
    """Decode rows, of which those with a drafter draft where `speculation` expects a gain."""

    speculation: Speculation
    _may_have_gap = False
    _has_waited = False
    """The step that begins has read the tokens of the step before, to draft behind them."""

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

    def filter(self, keep: list[int]) -> None:
        """Keep these rows alone; the draft model forgets the others."""
        super().filter(keep)
        if (model := self.speculation.draft_model) is not None:
            model.keep(self.uids)

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
        self.speculation.begin_step(len(self.uids), width, has_waited=self._has_waited)
        return self._wide_step(drafts) if drafts else super()._step()

    def _drafts(self) -> dict[int, list[int]]:
        """Return drafts of rows by their places, where the next pass is to be wide.

        Waits for the tokens of the step before only where a draft is likely to pay.
        """
        speculation, rows = self.speculation, len(self.uids)
        self._has_waited = False
        if not speculation.looks(rows):
            return {}
        # A wide pass does not make the KV grow before a narrow one would: that is accounted for.
        columns = free_columns(self.prompt_cache) or WIDEST
        longest = max(map(len, self.tokens)) + 1
        drafters, asking = self._candidates(longest, columns)
        if not (drafters or asking):
            return {}
        hoped = [(WIDEST - 1, drafter.hit_rate) for drafter in drafters.values()]
        width, _ = speculation.plan(rows, hoped, longest, columns, _model_rates(asking))
        speculation.record_search(is_worth=width > 1)
        last: list[int] = []
        drafts: dict[int, list[int]] = {}
        is_model_asked = False
        if width > 1:
            last = self._next_tokens.tolist()  # type: ignore[assignment]
            self._has_waited = True
            drafts = self._looked_up(drafters, last)
            asking = self._still_asking(drafters.keys() - drafts.keys(), asking, last)
            found = [(len(draft), drafters[place].hit_rate) for place, draft in drafts.items()]
            rates = _model_rates(asking)
            width, is_model_asked = speculation.plan(
                rows, found, longest, columns, rates, has_waited=True
            )
        if is_model_asked:
            drafts |= self._model_drafts(asking, last, width - 1)
        else:
            for drafter in asking.values():
                drafter.model.forget()
        return {place: draft[: width - 1] for place, draft in drafts.items()} if width > 1 else {}

    def _candidates(
        self, longest: int, columns: int
    ) -> tuple[dict[int, Drafter], dict[int, Drafter]]:
        """Return the rows whose lookup has found something, and those that ask the draft model.

        The draft model reads some tokens of the first row that would ask and is behind.
        """
        speculation, rows = self.speculation, len(self.uids)
        found: dict[int, Drafter] = {}
        asking: dict[int, Drafter] = {}
        is_read = False
        for place, row in enumerate(self.samplers):
            drafter, tokens = row.drafter, self.tokens[place]
            if drafter is None:
                continue
            if drafter.may_draft(tokens):
                found[place] = drafter
            elif not speculation.may_ask(drafter, len(tokens)):
                continue
            elif not speculation.is_behind(self.uids[place], tokens):
                asking[place] = drafter
            elif not is_read:
                is_read = True
                if speculation.plan(rows, (), longest, columns, [drafter.model.hit_rate])[1]:
                    speculation.read(rows, self.uids[place], tokens)
                else:
                    drafter.model.forget()
        return found, asking

    def _looked_up(self, drafters: dict[int, Drafter], last: list[int]) -> dict[int, list[int]]:
        """Return what the lookups of rows draft, by their places."""
        drafts: dict[int, list[int]] = {}
        for place, drafter in drafters.items():
            if draft := drafter.draft(last[place], min(self._left(place), WIDEST - 1)):
                drafts[place] = draft
        return drafts

    def _still_asking(
        self, others: Iterable[int], asking: dict[int, Drafter], last: list[int]
    ) -> dict[int, Drafter]:
        """Return the rows that ask the draft model once their next tokens are known.

        `others` are the places of rows whose lookup had nothing behind the next token after all.
        """
        places = {
            place: drafter
            for place in (*asking, *others)
            if (drafter := self.samplers[place].drafter) is not None
            and self.speculation.may_ask(drafter, len(self.tokens[place]))
            and not self.speculation.is_behind(self.uids[place], self.tokens[place])
        }
        return {
            place: places[place]
            for place in sorted(places)
            if self._left(place) > 0 and not places[place].is_ended_by(last[place])
        }

    def _left(self, place: int) -> int:
        """Return how many tokens of a row may be drafted: never the last that the row may have.

        A row ends at the first token of a pass.
        """
        return self.max_tokens[place] - self._num_tokens[place] - 2

    def _model_drafts(
        self, asking: dict[int, Drafter], last: list[int], count: int
    ) -> dict[int, list[int]]:
        """Return what the draft model drafts for rows, by their places."""
        proposed = self.speculation.propose(
            {
                self.uids[place]: DraftAsk(self.tokens[place], last[place], self.samplers[place])
                for place in asking
            },
            count,
        )
        drafts: dict[int, list[int]] = {}
        for place, drafter in asking.items():
            drafted = proposed.get(self.uids[place], [])
            if draft := drafter.take_model_draft(drafted, self._left(place)):
                drafts[place] = draft
        return drafts

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
            if (drafter := self.samplers[place].drafter) is not None:
                self.speculation.record(len(draft), count, by_model=drafter.is_by_model)
                drafter.record(len(draft), count, len(self.tokens[place]))
            self._runs[self.uids[place]] = [
                TokenResponse(self.uids[place], *follow, None, None, None, count - 1 - number)
                for number, follow in enumerate(follows[place][:count])
            ]
        return counts


def _model_rates(asking: dict[int, Drafter]) -> list[float]:
    """Return how often the draft model has been right about each of these rows."""
    return [drafter.model.hit_rate for drafter in asking.values()]


def _padded(last: list[int], drafts: dict[int, list[int]], dtype: mx.Dtype) -> mx.array:
    """Return the tokens that a wide pass reads: the last of each row, and the row's draft."""
    width = 1 + max(map(len, drafts.values()))
    rows = [[token, *drafts.get(place, ())] for place, token in enumerate(last)]
    return mx.array([row + [0] * (width - len(row)) for row in rows], dtype=dtype)
