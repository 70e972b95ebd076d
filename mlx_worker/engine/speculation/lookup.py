"""Where the last tokens of a row occurred before, and what followed them there.

Sources are the prediction of the answer that a request brings, the answer itself and the prompt.
A match is followed as long as the row goes on as its source does; so a copied text is looked up
once. An edited text goes on as before behind the edit: a source that was right for long is not
left at once. Tokens are searched as characters of a text, which Python does fast. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

TAIL: Final = 3
"""Tokens that must have occurred before."""
TRUSTED: Final = 4
"""Tokens in a row that are as in a source, for an edit to be expected at the next other one."""
NEAR: Final = 4
"""Tokens of the source in which the row may go on behind an edit."""
LONGEST_EDIT: Final = 4
"""Tokens of an edit after which the row is not expected to go on near it."""
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
        self._agreed = 0
        """Tokens in a row that were as in the source."""
        self._edited_at = -1
        """Where in the source the row was edited, while it may go on near there."""
        self._edited = 0
        """Tokens since then that were not as in the source."""
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
            is_right = self._proposes(token)
            if self._at >= 0:
                right += is_right
                wrong += not is_right
            behind = self._behind(token)
            if is_right:
                self._agreed += 1
            else:
                self._miss()
            self._at = behind
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
        return 0 <= self._at < len(self._source) or self._edited_at >= 0

    def after(self, token: int, count: int) -> list[int]:
        """Return at most `count` tokens that may follow `token`, the row's next one.

        Call `find` before.
        """
        at = self._behind(token)
        if at < 0:
            return []
        found = list(self._source[at : at + count])
        if self._source is self._tokens and len(found) < count:
            # The match reaches to the end: the row repeats itself, with this period.
            period = [*self._tokens[at:], token]
            found = [period[place % len(period)] for place in range(count)]
        return found

    def _proposes(self, token: int) -> bool:
        """Return True if the row was expected to go on with this token."""
        return 0 <= self._at < len(self._source) and self._source[self._at] == token

    def _behind(self, token: int) -> int:
        """Return where the source goes on behind the row's next token; -1 if that is not known.

        At an edit, the source has this token near. If not, the token replaces the expected token.
        """
        if self._proposes(token):
            return self._at + 1
        begins = self._is_trusted()
        edited_at = self._at if begins else self._edited_at
        near = self._source[edited_at : edited_at + NEAR] if edited_at >= 0 else ()
        if token in near:
            return edited_at + near.index(token) + 1
        return self._at + 1 if begins else -1

    def _is_trusted(self) -> bool:
        """Return True if another token than the expected one would be an edit."""
        return self._agreed >= TRUSTED and self._at < len(self._source)

    def _miss(self) -> None:
        """Record that the row's next token is not as in the source."""
        if self._is_trusted():
            self._edited_at, self._edited = self._at, 0
        if self._agreed and self.follows_prediction:
            self._left_at = self._at
        self._agreed = 0
        self._edited += 1
        if self._edited > LONGEST_EDIT:
            self._edited_at = -1

    def _search(self) -> None:
        """Find the last tokens elsewhere: where they are next in the prediction, or were latest.

        A prediction is searched from where the answer has left it.
        """
        self._at = -1
        self._agreed = 0
        recent, tail = self._recent, self._recent[-TAIL:]
        if len(tail) < TAIL:
            return
        if (place := self._predicted.find(tail, self._left_at)) >= 0:
            self._source, self._at = self._prediction, place + TAIL
        elif (place := recent.rfind(tail, 0, len(recent) - 1)) >= 0:
            self._source, self._at = self._tokens, len(self._old) + place + TAIL
        elif (place := self._old.rfind(tail)) >= 0:
            self._source, self._at = self._tokens, place + TAIL
        if self._at >= 0:
            self._agreed, self._edited_at = TAIL, -1


def _text(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))
