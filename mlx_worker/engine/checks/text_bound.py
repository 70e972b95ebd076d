"""The length up to which a text can fit a context, known before the text is tokenized.

Tokenizing costs time and memory by the text's length, so a text that cannot fit is refused by its
bytes. A text that fits is never refused: there is a bound only where every byte of a text ends in
some token, by the tokenizer's own description. Where that is not certain (a normalizer that drops
characters, a word that becomes one unknown token) there is no bound. [child]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from tokenizers.pre_tokenizers import ByteLevel

from mlx_worker.errors import ContextLengthExceeded, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

MARGIN: Final = 4096
"""Bytes beyond the bound that are tokenized all the same."""

USUAL: Final = 4
"""Bytes for each token, by which the tokens of a text that was not tokenized are estimated."""

SHRINKING: Final = {"NFC": 4, "NFD": 4, "NFKC": 4, "NFKD": 4, "Lowercase": 4, "ByteLevel": 1}
"""Normalizers that drop no character, and the factor by which the bytes of a text can shrink."""

KEEPING: Final = frozenset({"ByteLevel", "Digits", "Metaspace", "Split", "Punctuation"})
"""Pre-tokenizers that drop no character, unless configured to remove separators."""

WHITESPACE: Final = b" \t\n\r\v\f"

BYTES: Final = 256
"""The number of different bytes."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Bound the tokens of a text: one token stands for `longest` bytes of text at most.

    `only_visible`: some token includes all whitespace beside the token, so that whitespace does not
    count (nor does text outside ASCII, some of which is whitespace).
    """

    longest: int
    only_visible: bool


class TextBound:
    """Check texts for one model. `context_length` is in tokens."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self._tokenizer = tokenizer
        self.context_length = context_length

    def check_text(self, text: str, field: str) -> None:
        """Raise ContextLengthExceeded for a text that cannot fit, InvalidRequest if invalid."""
        if len(text) <= self.context_length:
            return
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"{field}: character {error.start} is half of a surrogate pair", param=field
            ) from error
        bound = self._bound
        if bound is None:
            return
        if bound.only_visible:
            data = data.decode("ascii", "ignore").encode().translate(None, WHITESPACE)
        most = bound.longest * self.context_length + MARGIN
        if len(data) > most:
            least = -(-len(data) // bound.longest)
            raise ContextLengthExceeded.of(
                max(least, len(data) // USUAL), self.context_length, field, estimated=True
            )

    def check_count(self, tokens: list[int], field: str) -> None:
        """Raise ContextLengthExceeded for more token ids than the context has places for."""
        if len(tokens) > self.context_length:
            raise ContextLengthExceeded.of(len(tokens), self.context_length, field)

    @cached_property
    def _bound(self) -> Bound | None:
        own = self._tokenizer._tokenizer  # noqa: SLF001  (mlx_lm's wrapper hides transformers' one)
        return bound_of(json.loads(own.backend_tokenizer.to_str())) if own.is_fast else None


def bound_of(described: dict[str, Any]) -> Bound | None:
    """Return the bound of a tokenizer, by its `tokenizer.json`; None: there is no bound."""
    shrinking = _shrinking(described.get("normalizer"))
    if shrinking is None or not _keeps_all(described.get("pre_tokenizer")):
        return None
    longest = _longest_piece(described)
    if longest is None:
        return None
    added = described.get("added_tokens") or []
    longest = max([longest, *(len(token["content"].encode()) for token in added)])
    greedy = any(token.get("lstrip") or token.get("rstrip") for token in added)
    return Bound(longest * shrinking, greedy)


def _parts(part: dict[str, Any] | None, members: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a sequence, nested ones too."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for member in part[members]:
            yield from _parts(member, members)
    else:
        yield part


def _shrinking(normalizer: dict[str, Any] | None) -> int | None:
    """Return the factor by which bytes can shrink; None where characters may be dropped."""
    factor = 1
    for step in _parts(normalizer, "normalizers"):
        match step:
            case {"type": "Prepend"}:
                continue
            case {"type": "Replace", "pattern": {"String": pattern}, "content": str(content)} if (
                content
            ):
                factor *= -(-len(pattern.encode()) // len(content.encode()))
            case {"type": kind} if kind in SHRINKING:
                factor *= SHRINKING[kind]
            case _:
                return None
    return factor


def _keeps_all(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Return True if no character of a text is dropped between two words."""
    return all(
        step["type"] in KEEPING and step.get("behavior") != "Removed"
        for step in _parts(pre_tokenizer, "pretokenizers")
    )


def _longest_piece(described: dict[str, Any]) -> int | None:
    """Return the most bytes of one token; None where a token may stand for text of any length."""
    model = described["model"]
    vocabulary = model.get("vocab") or {}
    pieces = [piece for piece, *_ in vocabulary] if isinstance(vocabulary, list) else vocabulary
    if model.get("byte_fallback"):
        known = set(pieces)
        if all(f"<0x{byte:02X}>" in known for byte in range(BYTES)):
            return max(len(piece.encode()) for piece in pieces)
        return None
    steps = [
        *_parts(described.get("pre_tokenizer"), "pretokenizers"),
        *_parts(described.get("normalizer"), "normalizers"),
    ]
    if model.get("type") == "BPE" and any(step["type"] == "ByteLevel" for step in steps):
        # Each character of a piece is a byte. All of them must be known, or some are dropped.
        known = set(pieces)
        return max(map(len, pieces)) if known.issuperset(ByteLevel.alphabet()) else None
    return None
