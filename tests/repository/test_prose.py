"""The documents have no sentence that is too long to be read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tools.prose import LONGEST, ROOT, documents, long_sentences

if TYPE_CHECKING:
    from pathlib import Path


def page_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", documents(), ids=page_of)
def test_a_document_has_no_long_sentence(path: Path) -> None:
    assert list(long_sentences(path.read_text(encoding="utf-8"))) == []


def test_a_long_sentence_is_seen_in_paragraphs_items_and_cells() -> None:
    long = " ".join(["word"] * (LONGEST + 1))
    page = f"# Title\n\nShort one. {long}.\n\n- {long}\n\n| a | {long} |\n\n```\n{long}\n```\n"
    assert len(list(long_sentences(page))) == 3


def test_code_and_links_count_as_their_words() -> None:
    names = ", ".join(["`name`"] * LONGEST)
    assert list(long_sentences(f"These are {names}.")) == []
    assert list(long_sentences(f"[{'word ' * LONGEST}](https://example.com) follows.")) != []
