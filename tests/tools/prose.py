"""Find sentences of the documents that are too long to be read once.

`python -m tests.tools.prose` prints them, and needs nothing but Python.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]

LONGEST: Final = 30
"""Words of a sentence. Writers aim at 25; a list of names in code counts as one word."""

FENCED: Final = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
CODE: Final = re.compile(r"`[^`\n]+`(?:,?\s+`[^`\n]+`)*")
LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
PARAGRAPH: Final = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*|#>]|\d+\.)\s)|\n(?=\|)")
SENTENCE: Final = re.compile(r"(?<=[.!?:;])[\")*_]*\s+|\s\|\s|\|$")
"""A colon, a semicolon and the border of a cell end what has to be kept in mind too."""


def documents() -> list[Path]:
    """Return the documents that people read from top to bottom, or look things up in."""
    shown = (ROOT / "README.md", ROOT / "deploy" / "README.md")
    return [*shown, *sorted((ROOT / "docs").rglob("*.md"))]


def long_sentences(text: str, longest: int = LONGEST) -> Iterator[str]:
    """Yield the sentences of a document that have too many words."""
    plain = LINK.sub(r"\1", CODE.sub("code", FENCED.sub("", text)))
    for paragraph in PARAGRAPH.split(plain):
        for sentence in SENTENCE.split(" ".join(paragraph.split())):
            if len(re.findall(r"[\w'%.-]*\w", sentence)) > longest:
                yield sentence.strip()


def main() -> int:
    """Print every long sentence with its file; return 1 if there is one."""
    found = [
        f"{path.relative_to(ROOT)}: {sentence}"
        for path in documents()
        for sentence in long_sentences(path.read_text(encoding="utf-8"))
    ]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
