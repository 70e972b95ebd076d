"""How often the draft model has been right: about one row, and about the rows of late.

A new row begins with what the rows before it have shown. So a draft model that is of no use is
found out once, not by each row anew, and is tried again now and then. [child]
"""

from __future__ import annotations

from typing import Final

REMEMBERED: Final = 0.9
"""The weight of what is known of a row, for each token that is added."""
RECORDED: Final = 0.98
"""The weight of what is known of all rows, for each token that is added."""
FIRST_HITS, FIRST_TRIES = 3.0, 4.0
"""What a draft model is expected to have hit that nothing is known of."""
FORGETTING: Final = 0.01
"""The share of what is known of a row that a step forgets in which the row was not asked for."""
RELAXING: Final = 0.001
"""The share of what is known of all rows that such a step of a row forgets."""
LONGEST_PAUSE: Final = 64
"""Tokens for which a row does not ask after many drafts that were wrong from the first token."""


class ModelRecord:
    """Know how often the draft model was right of late, about any row."""

    def __init__(self) -> None:
        self._hits, self._tries = FIRST_HITS, FIRST_TRIES

    @property
    def hit_rate(self) -> float:
        """Return the probability that a drafted token is right if all before it are."""
        return self._hits / self._tries

    def relax(self) -> None:
        """Forget a little: a draft model that was of no use lately is tried again."""
        self._hits += (FIRST_HITS - self._hits) * RELAXING
        self._tries += (FIRST_TRIES - self._tries) * RELAXING

    def add(self, *, is_right: bool) -> None:
        """Add one drafted token, in front of which all were right."""
        self._hits = self._hits * RECORDED + is_right
        self._tries = self._tries * RECORDED + 1


class ModelTrust:
    """Know how often the draft model was right about one row, and when the row asks for drafts.

    `record` is what is known of all rows.
    """

    def __init__(self, record: ModelRecord) -> None:
        self._record = record
        self._hits, self._tries = FIRST_TRIES * record.hit_rate, FIRST_TRIES
        self._resumes_at = 0
        self._misses = 0

    @property
    def hit_rate(self) -> float:
        """Return the probability that a drafted token is right if all before it are."""
        return self._hits / self._tries

    def may_ask(self, tokens: int) -> bool:
        """Return True if the row may ask when it has this number of tokens."""
        return tokens >= self._resumes_at

    def forget(self) -> None:
        """Forget a little: drafts that did not pay lately are tried again."""
        self._record.relax()
        self._hits += (FIRST_TRIES * self._record.hit_rate - self._hits) * FORGETTING
        self._tries += (FIRST_TRIES - self._tries) * FORGETTING

    def add(self, drafted: int, accepted: int, tokens: int) -> None:
        """Learn how many drafted tokens were right, when the row has this number of tokens."""
        for is_right in (*[True] * accepted, *[False] * (accepted < drafted)):
            self._record.add(is_right=is_right)
            self._hits = self._hits * REMEMBERED + is_right
            self._tries = self._tries * REMEMBERED + 1
        self._misses = 0 if accepted else self._misses + 1
        if self._misses > 1:
            self._resumes_at = tokens + min(LONGEST_PAUSE, 1 << (self._misses - 1))
