"""The text of a prompt as tokens, in which some stretches have tokens of their own.

The text between two stretches is tokenized by itself, as it was when the earlier prompt ended
there: so the tokens before a turn are those that the turn answered. [child]
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.splice import Splice


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a text: where it begins, how many tokens come before it, its encoding."""

    begin: int
    before: int
    length: int
    encoded: Any


class TokenizedText:
    """Hold the tokens of a text, and find which of them stand before a character."""

    def __init__(self, tokenizer: Any, text: str, splices: Sequence[Splice] = ()) -> None:
        self.tokens: list[int] = []
        self._pieces: list[_Piece] = []
        self._is_fast = True
        place = 0
        for splice in splices:
            self._add(tokenizer, text, place, splice.begin)
            self._pieces.append(
                _Piece(splice.begin, len(self.tokens), splice.end - splice.begin, None)
            )
            self.tokens += splice.token_ids
            place = splice.end
        self._add(tokenizer, text, place, len(text))
        self._begins = [piece.begin for piece in self._pieces]

    def tokens_before(self, character: int) -> int:
        """Return how many tokens are whole before a character.

        With a tokenizer that is not in Rust the result is 0: prompts then have no segments.
        """
        if not self._is_fast:
            return 0
        following = max(0, bisect_right(self._begins, character) - 1)
        for piece in self._pieces[following:]:
            if piece.encoded is None:
                if character < piece.begin + piece.length:
                    return piece.before
                continue
            # A character that no token covers was dropped by the tokenizer: the next one counts.
            first = max(0, character - piece.begin)
            covered = (piece.encoded.char_to_token(at) for at in range(first, piece.length))
            token = next((token for token in covered if token is not None), None)
            if token is not None:
                return int(piece.before + token)
        return len(self.tokens)

    def _add(self, tokenizer: Any, text: str, begin: int, end: int) -> None:
        if begin == end:
            return
        encoded = tokenizer._tokenizer(text[begin:end], add_special_tokens=False)  # noqa: SLF001
        self._pieces.append(_Piece(begin, len(self.tokens), end - begin, encoded))
        self.tokens += encoded["input_ids"]
        self._is_fast = self._is_fast and encoded.is_fast
