"""Token ids to text, token by token; a character is released when its bytes are complete.

mlx_lm's streaming detokenizers drop the first space of every answer and have no byte 0 (mlx-lm up
to 0.32.2). A raw prompt is continued, not answered: there the first space is the model's own.
[child]
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_UTF8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """Turn the tokens of one answer into text."""

    @property
    def is_whole(self) -> bool:
        """True if the tokens so far end with a whole character."""

    def add(self, token: int) -> str:
        """Return the text that this token completes; "" inside a character."""

    def finish(self) -> str:
        """Return what is left of a character that no token completed."""

    @property
    def is_inside_character(self) -> bool:
        """True if the tokens so far end within a character."""


class ByteDetokenizer:
    """Decode the known bytes of each token."""

    def __init__(self, table: Sequence[bytes], *, trims: bool) -> None:
        self._table = table
        self._trims = trims
        self._decoder = _UTF8("replace")

    @property
    def is_whole(self) -> bool:
        """True if the tokens so far end with a whole character."""
        return not self._decoder.getstate()[0]

    def add(self, token: int) -> str:
        """Return the text that this token completes; a padding id beyond the vocabulary has none.

        Source: the vocabulary's own bytes.
        """
        data = self._table[token] if token < len(self._table) else b""
        return self._trimmed(self._decoder.decode(data))

    def finish(self) -> str:
        """Return a replacement character for bytes that no token completed."""
        return self._trimmed(self._decoder.decode(b"", final=True))

    @property
    def is_inside_character(self) -> bool:
        """True if the tokens so far end within a character."""
        return bool(self._decoder.getstate()[0])

    def _trimmed(self, text: str) -> str:
        if self._trims and text:
            self._trims = False
            return text.removeprefix(" ")
        return text


class WindowDetokenizer:
    """Decode the last few tokens again with each new one: for vocabularies of unknown spelling.

    `before` is the token that the answer follows, if any: a token's text can depend on the token in
    front.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(before)
        self._begin = 0
        self._decoded = len(self._tokens)

    @property
    def is_whole(self) -> bool:
        """True if the tokens so far end with a whole character."""
        return self._decoded == len(self._tokens)

    def add(self, token: int) -> str:
        """Return the text that this token completes."""
        self._tokens.append(token)
        text = self._new_text()
        if not text or text.endswith("\ufffd"):
            return ""
        self._advance()
        return text

    def finish(self) -> str:
        """Return the text of tokens that did not complete a character."""
        text = self._new_text()
        self._advance()
        return text

    @property
    def is_inside_character(self) -> bool:
        """True if the last tokens have no text yet."""
        return len(self._tokens) > self._decoded

    def _new_text(self) -> str:
        before: str = self._tokenizer.decode(self._tokens[self._begin : self._decoded])
        after: str = self._tokenizer.decode(self._tokens[self._begin :])
        return after[len(before) :]

    def _advance(self) -> None:
        del self._tokens[: self._decoded]
        self._begin, self._decoded = 0, len(self._tokens)
