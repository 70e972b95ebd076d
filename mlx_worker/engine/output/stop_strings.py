"""The stop strings of one request, as tokens and as text.

A model may generate a special token, or write the same characters in ordinary tokens. A stop string
ends the answer either way. Special tokens that are not shown have no text: while a stop string
names such a token, a placeholder stands for the token in the text that is watched. Placeholders are
lone surrogates, which no decoded text holds. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

_FIRST_PLACEHOLDER: Final = 0xDC00
_MOST_PLACEHOLDERS: Final = 0x400


class StopStrings:
    """Hold what ends one answer.

    `added` has the text of each token beyond the ordinary vocabulary, by id; `hidden` are those
    of them that are not shown. `tokens` are ids that end the answer, `watched` are texts that end
    the answer, each with its stop string.
    """

    def __init__(
        self, stop: Sequence[str], added: Mapping[int, str], hidden: AbstractSet[int]
    ) -> None:
        words = set(stop)
        self.tokens = {token: text for token, text in added.items() if text in words}
        named = [
            token
            for token in sorted(hidden)
            if added[token] and any(added[token] in word and added[token] != word for word in stop)
        ]
        self._placeholders = {
            token: chr(_FIRST_PLACEHOLDER + i) for i, token in enumerate(named[:_MOST_PLACEHOLDERS])
        }
        self.watched = {word: word for word in stop}
        for word in stop:
            replaced = word
            # The longest text first: one token's text may begin another's.
            for token in sorted(self._placeholders, key=lambda token: -len(added[token])):
                replaced = replaced.replace(added[token], self._placeholders[token])
            self.watched.setdefault(replaced, word)
        self._removed = dict.fromkeys(map(ord, self._placeholders.values()))

    def placeholder(self, token: int) -> str:
        """Return the placeholder of a token that is not shown; "" if no stop string names it."""
        return self._placeholders.get(token, "")

    def shown(self, text: str) -> str:
        """Return a text without placeholders."""
        return text.translate(self._removed) if self._removed else text
