"""The drafts of one row: when the row drafts, and how often its drafts have been right.

A draft changes no token, so nothing here has to be the same in a replay. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.engine.speculation.lookup import Lookup
from mlx_worker.engine.speculation.model_trust import LONGEST_PAUSE, ModelTrust

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mlx_worker.engine.speculation.model_trust import ModelRecord

REMEMBERED: Final = 0.9
"""The weight of what is known, for each token that is added."""
FIRST_HITS, FIRST_TRIES = 1.0, 2.0
"""What a new row is expected to have hit."""
FIRST_HITS_PREDICTED = 1.6
"""The same of a row with a prediction: who sends one expects most of it to be right."""
LONGEST_BLIND: Final = 8
"""Tokens between two searches of a row whose last tokens are new each time."""


class Drafter:
    """Draft the next tokens of one row, none of them in `ends`.

    The hit rate is known without drafts too: what a lookup proposes is compared with every token.
    `accepted_predicted` and `rejected_predicted` count drafted tokens of the request's prediction.
    `is_by_model`: the last draft is the draft model's, of which `record` knows what it is worth.
    """

    def __init__(
        self, prediction: Sequence[int], ends: Collection[int], record: ModelRecord
    ) -> None:
        self.accepted_predicted = 0
        self.rejected_predicted = 0
        self.is_by_model = False
        self.model = ModelTrust(record)
        self._prediction = prediction
        self._ends = ends
        self._lookup: Lookup | None = None
        self._resumes_at = 0
        self._hits = FIRST_HITS_PREDICTED if prediction else FIRST_HITS
        self._tries = FIRST_TRIES
        self._misses = 0
        self._unknown = 0

    @property
    def hit_rate(self) -> float:
        """Return the probability that a drafted token is right if all before it are."""
        return self._hits / self._tries

    def may_draft(self, tokens: Sequence[int]) -> bool:
        """Return True if a draft is likely as soon as the row's next token is known.

        `tokens` are those of prompt and answer, without the next one; always the same list.
        """
        if len(tokens) < self._resumes_at:
            return False
        if self._lookup is None:
            self._lookup = Lookup(tokens, self._prediction)
        right, wrong = self._lookup.catch_up()
        for is_right in (*[1] * right, *[0] * wrong):
            self._hits = self._hits * REMEMBERED + is_right
            self._tries = self._tries * REMEMBERED + 1
        if self._lookup.find():
            self._unknown = 0
            return True
        self._unknown += 1
        self._resumes_at = len(tokens) + min(LONGEST_BLIND, self._unknown)
        return False

    def draft(self, token: int, count: int) -> list[int]:
        """Return at most `count` tokens that may follow `token`, the row's next one."""
        self.is_by_model = False
        if self._lookup is None or token in self._ends:
            return []
        return self._before_end(self._lookup.after(token, count))

    def take_model_draft(self, drafted: Sequence[int], count: int) -> list[int]:
        """Return at most `count` tokens of a draft of the draft model."""
        self.is_by_model = True
        return self._before_end(drafted[:count])

    def is_ended_by(self, token: int) -> bool:
        """Return True if the token ends the row."""
        return token in self._ends

    def record(self, drafted: int, accepted: int, tokens: int) -> None:
        """Learn how many drafted tokens were right, when the row has this number of tokens."""
        if self.is_by_model:
            self.model.add(drafted, accepted, tokens)
            return
        assert self._lookup is not None
        if self._lookup.follows_prediction:
            self.accepted_predicted += accepted
            self.rejected_predicted += drafted - accepted
        self._misses = 0 if accepted else self._misses + 1
        if self._misses > 1:
            self._resumes_at = tokens + min(LONGEST_PAUSE, 1 << (self._misses - 1))

    def _before_end(self, drafted: Sequence[int]) -> list[int]:
        """Return the drafted tokens in front of the first one that would end the row."""
        for place, token in enumerate(drafted):
            if token in self._ends:
                return list(drafted[:place])
        return list(drafted)
