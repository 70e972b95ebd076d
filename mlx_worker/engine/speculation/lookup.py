"""Where the last tokens of a row occurred before, and what followed them there.

Sources are the prediction of the answer that a request brings, the answer itself and the prompt.
A match is followed as long as the row goes on as its source does; so a copied text is looked up
once. Tokens are searched as characters of a text, which Python does fast. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

TAIL: Final = 3
"""Tokens that must have occurred before."""
FLUSH: Final = 512
"""Tokens of the answer that are kept apart: a long text is not copied for every token."""


class Lookup:
    """Follow the tokens of one row, and propose how they go on.

    `tokens` is the list of the row's prompt and answer, which grows. `follows_prediction` is true
    if the last match is in the prediction.
    """

    def __init__(self, tokens: Sequence[int], prediction: Sequence[int]) -> None:
        self._tokens = tokens
        self._prediction = prediction
        self._predicted = _text(prediction)
        self._old = ""
        self._recent = _text(tokens)
        self._taken = len(tokens)
        self._source: Sequence[int] = prediction
        self._at = 0 if prediction else -1
        self._left_at = 0

    @property
    def follows_prediction(self) -> bool:
        """True if what is proposed comes from the prediction."""
        return self._source is self._prediction

    def catch_up(self) -> tuple[int, int]:
        """Take the tokens that the list has gained.

        Return how many of them had been proposed, and how many were others than proposed.
        """
        right = wrong = 0
        gained = self._tokens[self._taken :]
        for token in gained:
            if self._at < 0:
                continue
            is_right = self._at < len(self._source) and self._source[self._at] == token
            right += is_right
            wrong += not is_right
            if not is_right:
                self._leave()
            else:
                self._at += 1
        self._taken += len(gained)
        self._recent += _text(gained)
        if len(self._recent) > FLUSH:
            self._old += self._recent[:-TAIL]
            self._recent = self._recent[-TAIL:]
        return right, wrong

    def find(self) -> bool:
        """Find how the tokens go on, unless a match is being followed; True if there is one."""
        if self._at < 0 or self._at >= len(self._source):
            self._search()
        return 0 <= self._at < len(self._source)

    def after(self, token: int, count: int) -> list[int]:
        """Return at most `count` tokens that may follow `token`, the row's next one.

        Call `find` before. Nothing follows another token than the source has next.
        """
        if self._at >= len(self._source) or self._source[self._at] != token:
            return []
        at = self._at + 1
        found = list(self._source[at : at + count])
        if self._source is self._tokens and len(found) < count:
            # The match reaches to the end: the row repeats itself, with this period.
            period = [*self._tokens[at:], token]
            found = [period[place % len(period)] for place in range(count)]
        return found

    def _leave(self) -> None:
        """Follow the source no longer."""
        if self.follows_prediction:
            self._left_at = self._at
        self._at = -1

    def _search(self) -> None:
        """Find the last tokens elsewhere: where they are next in the prediction, or were latest.

        A prediction is searched from where the answer has left it.
        """
        self._at = -1
        recent, tail = self._recent, self._recent[-TAIL:]
        if len(tail) < TAIL:
            return
        if (place := self._predicted.find(tail, self._left_at)) >= 0:
            self._source, self._at = self._prediction, place + TAIL
        elif (place := recent.rfind(tail, 0, len(recent) - 1)) >= 0:
            self._source, self._at = self._tokens, len(self._old) + place + TAIL
        elif (place := self._old.rfind(tail)) >= 0:
            self._source, self._at = self._tokens, place + TAIL


def _text(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))
