"""Errors about a key of the configuration file, with the line that the key stands in.

tomllib and msgspec keep no line numbers, so the lines are found again in the text. [both]
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from mlx_worker.errors import ConfigError
from mlx_worker.validation import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    import msgspec

_KEY = r"""(?:"[^"]*"|'[^']*'|[\w-]+)"""
_KEYS = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_KEYS})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEYS})\s*=")


class ConfigErrors:
    """Makes a ConfigError that names file, line, key and value from the path of a key."""

    def __init__(self, source: str, text: str, raw: dict[str, Any]) -> None:
        self._source = source
        self._lines = text.splitlines()
        self._raw = raw

    def __call__(self, path: str, problem: str) -> ConfigError:
        """Return the error about a key."""
        line = self.line_of(path)
        where = f"{self._source}:{line}" if line else self._source
        return ConfigError(f"{where}: {path}: {problem}", param=path)

    def from_validation(self, error: msgspec.ValidationError, shape: type) -> ConfigError:
        """Return the error about the value that msgspec refused for this type."""
        path, problem = explain(error, self._raw, shape)
        return self(path or "the file", problem)

    def line_of(self, path: str) -> int | None:
        """Return the line of a key, or of the innermost table around the key; None if unknown."""
        found = [(len(key), line) for line, key in _key_lines(self._lines) if _encloses(key, path)]
        return max(found)[1] if found else None


def _key_lines(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield (line number, path) of every header and key, but not of keys in inline values."""
    table = ""
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if header := _HEADER.match(line):
            table = _within(_plain(header[2]), counts)
            if header[1] == "[[":
                counts[table] += 1
                table = f"{table}[{counts[table] - 1}]"
            yield number, table
        elif assignment := _ASSIGNMENT.match(line):
            yield number, f"{table}.{_plain(assignment[1])}".lstrip(".")


def _within(table: str, counts: Counter[str]) -> str:
    """Return the path of a table; [models.defaults] belongs to the [[models]] above it."""
    outer, dot, inner = table.partition(".")
    return f"{outer}[{counts[outer] - 1}].{inner}" if dot and counts[outer] else table


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _encloses(outer: str, path: str) -> bool:
    return path == outer or path.startswith((f"{outer}.", f"{outer}["))
