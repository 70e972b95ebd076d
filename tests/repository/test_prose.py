"""The documents have no sentence that is too long to be read once."""

from __future__ import annotations

from tests.tools.prose import LONGEST, ROOT, documents, long_sentences


def test_no_document_has_a_long_sentence() -> None:
    found = {
        str(path.relative_to(ROOT)): list(long_sentences(path.read_text(encoding="utf-8")))
        for path in documents()
    }
    assert len(found) > 50
    assert {path: sentences for path, sentences in found.items() if sentences} == {}


def test_a_long_sentence_is_seen_in_paragraphs_items_and_cells() -> None:
    long = " ".join(["word"] * (LONGEST + 1))
    page = f"# Title\n\nShort one. {long}.\n\n- {long}\n\n| a | {long} |\n\n```\n{long}\n```\n"
    assert len(list(long_sentences(page))) == 3


def test_code_and_links_count_as_their_words() -> None:
    names = ", ".join(["`name`"] * LONGEST)
    assert list(long_sentences(f"These are {names}.")) == []
    assert list(long_sentences(f"[{'word ' * LONGEST}](https://example.com) follows.")) != []
