"""The words of documents and of the page name the actor and the object."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]

VAGUE: Final = re.compile(
    r"\b(whoever|whomever|whosoever|somebody|someone|nobody|anybody|anyone|everybody|everyone"
    r"|so many|so long|the one (?:that|who|which))\b",
    re.IGNORECASE,
)
"""Words that leave open which component, person or number is meant."""

DOCUMENTS: Final = sorted(
    [
        ROOT / "CHANGELOG.md",
        ROOT / "README.md",
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "mlx_worker" / "page").glob("*.*"),
    ]
)


def vague(lines: Iterator[tuple[int, str]]) -> list[str]:
    """Return the lines that have a vague word, each with its number."""
    return [f"{number}: {line.strip()}" for number, line in lines if VAGUE.search(line)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_document_names_the_actor_and_the_object(path: Path) -> None:
    assert vague(enumerate(path.read_text().splitlines(), 1)) == []


def test_a_vague_word_is_seen_with_its_line() -> None:
    assert vague(enumerate(["A fact.", "So long as anyone asks."], 1)) == [
        "2: So long as anyone asks."
    ]
