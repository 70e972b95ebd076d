"""The bytes that each token of a vocabulary stands for.

Text is made of bytes: a character may be cut between tokens, and a token may hold half of one.
mlx_lm's token maps have the bytes of sentencepiece tokens, and of byte-level tokens in the
printable spelling of their vocabulary; here both become plain bytes. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPACE: Final = "\u2581".encode()
"""How sentencepiece writes a space."""


def token_bytes(tokenizer: Any) -> Sequence[bytes] | None:
    """Return the bytes of each token by its id; None where the vocabulary does not tell.

    `tokenizer` is mlx_lm's wrapper, which has recognised the vocabulary's spelling.
    """
    known = tokenizer.detokenizer
    if isinstance(known, BPEStreamingDetokenizer):
        alphabet = _byte_level_alphabet()
        return [_spelled_out(token or "", alphabet) for token in known.tokenmap]
    if isinstance(known, SPMStreamingDetokenizer):
        return [token.replace(_SPACE, b" ") for token in known.tokenmap]
    return None


def trims_first_space(tokenizer: Any) -> bool:
    """Return True if an answer's first space comes from the vocabulary, not from the model."""
    known = tokenizer.detokenizer
    return bool(getattr(known, "trim_space", True))


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte of each character that byte-level vocabularies write for one (GPT-2's)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + i): byte for i, byte in enumerate(others)
    }


def _spelled_out(token: str, alphabet: dict[str, int]) -> bytes:
    """Return a byte-level token's bytes; a token with any other character means its own text."""
    values = [alphabet.get(character) for character in token]
    if None in values:
        return token.encode("utf-8", "replace")
    return bytes(value for value in values if value is not None)
