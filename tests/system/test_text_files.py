"""Text as editors save it."""

from __future__ import annotations

import pytest

from mlx_worker.system.text_files import decode_text

TEXT = "be kind\r\nund höflich\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_decode_text_of_utf8_is_the_text_without_its_mark(encoding: str) -> None:
    assert decode_text(TEXT.encode(encoding)) == TEXT


def test_decode_text_keeps_a_mark_that_is_not_in_front() -> None:
    assert decode_text("a\ufeff".encode()) == "a\ufeff"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_decode_text_of_another_encoding_says_which(encoding: str) -> None:
    with pytest.raises(ValueError, match=f"the encoding is {encoding[:6].upper()}: save"):
        decode_text(f"\ufeff{TEXT}".encode(encoding))


def test_decode_text_of_latin_1_says_where() -> None:
    with pytest.raises(ValueError, match=r"not UTF-8: byte 14 is 0xf6"):
        decode_text(TEXT.encode("latin-1"))


def test_decode_text_of_nothing_is_nothing() -> None:
    assert decode_text(b"") == ""
