"""The end of an answer that only repeats itself.

An answer loops once its last tokens have a period p: at least as many tokens as the rule asks for,
and at least the rule's number of repeats of p tokens. The guard gets the tokens of the answer and
nothing else, so that a replay finds the same end.

The tokens are characters of a text, which Python searches fast. Every quarter of the rule's tokens
one search finds the periods that could be complete before the next search. For each of them the
text that would have to follow is known: a token costs one look into a table. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.wire.request import LoopRule

WINDOW: Final = 8192
"""Tokens that are searched: a period is at most this number divided by the repeats."""


class LoopGuard:
    """Watch the tokens of one answer for repetition.

    `period` is the number of tokens that the answer repeats; 0 while the answer does not loop.
    """

    def __init__(self, rule: LoopRule) -> None:
        self.period = 0
        self._repeats = rule.repeats
        self._tokens = rule.tokens
        self._interval = max(1, rule.tokens // 4)
        self._past = ""
        self._recent = ""
        self._due: dict[int, list[tuple[int, str]]] = {}
        """By the number of tokens since the search: a period, and the tokens that complete it."""

    @property
    def notice(self) -> str:
        """Return a warning about an answer that loops."""
        return (
            "the answer was ended because it repeats itself: its last"
            f" {self.repeated_tokens} tokens are the same {self.period} again and again"
        )

    @property
    def repeated_tokens(self) -> int:
        """Return the number of tokens that have the period; 0 while the answer does not loop."""
        return self._needed(self.period) if self.period else 0

    def add(self, token: int) -> None:
        """Take the next token of the answer."""
        self._recent += chr(token)
        for period, continuation in self._due.get(len(self._recent), ()):
            if self._recent == continuation and not self.period:
                self.period = period
        if len(self._recent) == self._interval:
            self._past = (self._past + self._recent)[-WINDOW:]
            self._recent = ""
            self._due = {}
            for period, missing in self._candidates():
                repeated = self._past[-period:] * (missing // period + 1)
                self._due.setdefault(missing, []).append((period, repeated[:missing]))

    def _needed(self, period: int) -> int:
        """Return how many tokens must have a period."""
        return max(self._tokens, self._repeats * period)

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """Yield periods, rising, that may be complete before the next search.

        With each comes the number of tokens that are missing.
        """
        past = self._past
        found: list[tuple[int, int]] = []
        for period in self._distances():
            # A multiple of a period that reaches that far back reaches back no further.
            if any(period % known == 0 and period <= reach for known, reach in found):
                continue
            needed = self._needed(period)
            first = len(past) - (needed - self._interval)
            if first >= 0 and past.startswith(past[first + period :], first):
                while first > 0 and past[first - 1] == past[first - 1 + period]:
                    first -= 1
                found.append((period, len(past) - first))
                yield period, needed - (len(past) - first)

    def _distances(self) -> Iterator[int]:
        """Yield how far back the last tokens were said before, rising.

        The further back, the more of the last tokens must have been said there: as many as the
        shortest period of that range repeats at least.
        """
        past, nearest, furthest = self._past, 1, max(1, self._tokens // self._repeats)
        while nearest <= WINDOW // self._repeats:
            furthest = min(furthest, WINDOW // self._repeats)
            compared = min(
                self._needed(period) - self._interval - period for period in (nearest, furthest)
            )
            if len(past) < compared + nearest:
                return
            yield from reversed(_earlier_places(past, compared, nearest, furthest))
            nearest, furthest = furthest + 1, 2 * furthest


def _earlier_places(text: str, compared: int, nearest: int, furthest: int) -> list[int]:
    """Return at which distances of a range the end of a text occurs before, the furthest first."""
    end = len(text) - compared
    tail = text[end:]
    distances: list[int] = []
    at = text.find(tail, max(0, end - furthest), len(text) - nearest)
    while at >= 0:
        distances.append(end - at)
        at = text.find(tail, at + 1, len(text) - nearest)
    return distances
