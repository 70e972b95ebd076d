"""What is refused by its bytes alone, and that nothing is that would have fitted."""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from mlx_worker.engine.checks.text_bound import MARGIN, SHRINKING, TextBound, bound_of
from mlx_worker.errors import ContextLengthExceeded
from tests.rounds import variants

if TYPE_CHECKING:
    from pathlib import Path

ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def described(tokenizer: Tokenizer) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(tokenizer.to_str())
    return value


def byte_level(*pieces: str) -> Tokenizer:
    vocabulary = {piece: place for place, piece in enumerate([*sorted(ALPHABET), *pieces])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def byte_fallback(*pieces: str) -> Tokenizer:
    known = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {piece: place for place, piece in enumerate([*known, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return tokenizer


def test_bound_of_byte_level_is_its_longest_token() -> None:
    bound = bound_of(described(byte_level("abcdef")))
    assert bound is not None
    assert (bound.longest, bound.only_visible) == (6, False)


def test_bound_of_byte_fallback_counts_utf8_bytes() -> None:
    bound = bound_of(described(byte_fallback("\u2581\u2581\u2581")))
    assert bound is not None
    assert bound.longest == 9


def test_bound_of_added_token_counts_and_may_swallow_whitespace() -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<|a long special|>", rstrip=True)])
    bound = bound_of(described(tokenizer))
    assert bound is not None
    assert (bound.longest, bound.only_visible) == (len("<|a long special|>"), True)


def dropping_normalizer() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Strip()
    return tokenizer


def dropping_split() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel()]
    )
    return tokenizer


def unknown_words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Digits()
    return tokenizer


def missing_bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    return tokenizer


@pytest.mark.parametrize(
    "make", [dropping_normalizer, dropping_split, unknown_words, missing_bytes]
)
def test_bound_of_tokenizer_that_may_drop_text_is_none(make: Any) -> None:
    assert bound_of(described(make())) is None


@pytest.mark.parametrize("form", variants(["NFC", "NFD", "NFKC", "NFKD"], ["NFKC"]))
def test_shrinking_covers_every_character_of_a_normal_form(form: Any) -> None:
    for code in (*range(0xD800), *range(0xE000, 0x110000)):
        before, after = chr(code), unicodedata.normalize(form, chr(code))
        assert len(before.encode()) <= SHRINKING[form] * len(after.encode())


def test_text_bound_refuses_only_what_cannot_fit(caller: Path) -> None:
    tokenizer: Any = load_tokenizer(caller)
    context = 64
    bound = TextBound(tokenizer, context)
    pieces = sorted(tokenizer.get_vocab(), key=len, reverse=True)
    longest = len(pieces[0].encode())
    assert len(tokenizer.encode(pieces[0] * context)) <= context
    bound.check_text(pieces[0] * context, "prompt")
    with pytest.raises(ContextLengthExceeded) as refused:
        bound.check_text("a" * (longest * context + MARGIN + 1), "prompt")
    assert refused.value.param == "prompt"
    assert refused.value.context == context
    assert f"resulted in about {refused.value.tokens} tokens" in refused.value.message
    assert refused.value.tokens >= (longest * context + MARGIN) / longest
