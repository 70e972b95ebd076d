"""The words of code, messages and documents name the actor and the object."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]

VAGUE: Final = re.compile(
    r"\b(whoever|whomever|whosoever|somebody|someone|nobody|anybody|anyone|everybody|everyone"
    r"|so many|so long|the one (?:that|who|which))\b",
    re.IGNORECASE,
)
"""Words that leave open which component, person or number is meant."""

SOURCES: Final = sorted((ROOT / "mlx_worker").rglob("*.py"))
DOCUMENTS: Final = sorted(
    [
        ROOT / "CHANGELOG.md",
        ROOT / "README.md",
        *(ROOT / ".github").rglob("*.*"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "mlx_worker").rglob("*.md"),
        *(ROOT / "mlx_worker" / "page").glob("*.*"),
    ]
)


def words_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of comments and of texts in Python source, each with its number."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type in FSTRING:
            yield from enumerate(token.string.splitlines(), token.start[0])


FSTRING: Final = {
    getattr(tokenize, name) for name in ("FSTRING_MIDDLE",) if hasattr(tokenize, name)
}
"""Python 3.12 and later cut formatted texts into tokens of their own."""


def vague(lines: Iterator[tuple[int, str]]) -> list[str]:
    """Return the lines that have a vague word, each with its number."""
    return [f"{number}: {line.strip()}" for number, line in lines if VAGUE.search(line)]


def called_it(source: str) -> list[str]:
    """Return the lines where a variable is called `it`: one is named for what it holds."""
    return [
        f"{node.lineno}: it"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name) and node.id == "it" and isinstance(node.ctx, ast.Store)
    ]


def test_source_names_the_actor_and_the_object() -> None:
    found = {}
    for path in SOURCES:
        source = path.read_text()
        # To cut a source into tokens costs a hundred times what it costs to search it.
        lines = vague(words_of(source)) if VAGUE.search(source) else []
        found[str(path.relative_to(ROOT))] = lines + called_it(source)
    assert len(found) > 500
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_documents_name_the_actor_and_the_object() -> None:
    found = {
        str(path.relative_to(ROOT)): vague(enumerate(path.read_text().splitlines(), 1))
        for path in DOCUMENTS
    }
    assert len(found) > 50
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_a_variable_called_it_is_seen() -> None:
    assert called_it("x = [it for it in y]\nit.z = 1\nfor it in y: pass\n") == ["3: it", "1: it"]


def test_comments_and_texts_are_read() -> None:
    source = '"""For whoever asks."""\nx = 1  # nobody\ny = f"so many {x}"\nnobody = 2\n'
    assert [line.partition(":")[0] for line in vague(words_of(source))] == ["1", "2", "3"]
