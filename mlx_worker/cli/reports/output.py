"""Write tables and lines so that no name is cut or wrapped.

In a pipe or a file every line has the length that its content needs. On a terminal a table leaves
out the columns that matter least until the rest fits, and says which. [front]
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

ALWAYS: Final = 0
"""Rank of a column that is never left out."""

_GAP: Final = 2
"""Blanks between two columns."""

_UNLIMITED: Final = 1 << 20
"""Characters of a line in a pipe: more than any line has."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and its rank. The highest rank is left out first."""

    title: str
    rank: int = ALWAYS
    justify: Literal["left", "right"] = "right"


@dataclass(frozen=True, slots=True)
class Listing:
    """Columns and the cells of every row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Text]]

    def lines(self, width: int | None) -> list[Text]:
        """Return the table for a terminal of this width, by lines; None: every column."""
        cells = [
            [Text(column.title, "bold"), *(_text(row[i]) for row in self.rows)]
            for i, column in enumerate(self.columns)
        ]
        widths = [max(cell.cell_len for cell in column) for column in cells]
        shown = self._shown(widths, width)
        lines = [
            _line([(self.columns[i], cells[i][row], widths[i]) for i in shown])
            for row in range(len(self.rows) + 1)
        ]
        left_out = [column.title for i, column in enumerate(self.columns) if i not in shown]
        if left_out:
            lines.append(Text(f"not shown in {width} columns: {', '.join(left_out)}", "dim"))
        return lines

    def _shown(self, widths: Sequence[int], width: int | None) -> list[int]:
        """Return the columns that fit beside each other; one that matters always is kept."""
        shown = list(range(len(self.columns)))
        while width is not None and sum(widths[i] + _GAP for i in shown) - _GAP > width:
            last = max(shown, key=lambda i: self.columns[i].rank)
            if self.columns[last].rank == ALWAYS:
                break
            shown.remove(last)
        return shown


def _text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)


def _line(cells: Sequence[tuple[Column, Text, int]]) -> Text:
    """Return the cells beside each other, without blanks at the end."""
    line = Text()
    for column, cell, width in cells:
        blanks = " " * (width - cell.cell_len)
        line.append(" " * _GAP if line else "")
        line.append(blanks if column.justify == "right" else "")
        line.append_text(cell)
        line.append(blanks if column.justify == "left" else "")
    line.rstrip()
    return line


def pairs(facts: Sequence[tuple[str, str]]) -> list[Text]:
    """Return names and values, the values below each other."""
    width = max(len(name) for name, _ in facts) + _GAP
    return [Text.assemble((f"{name:{width}}", "dim"), value) for name, value in facts]


def terminal_width() -> int | None:
    """Return the width of the terminal; None if the output is a pipe or a file."""
    return Console().width if sys.stdout.isatty() else None


def print_lines(*lines: RenderableType) -> None:
    """Print lines for people. A terminal breaks long ones; in a pipe they have any length."""
    console = Console() if sys.stdout.isatty() else Console(width=_UNLIMITED)
    for line in lines:
        console.print(line, crop=False, no_wrap=True, overflow="ignore", soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one value of several: each is one line."""
    click.echo(json.dumps(value))
