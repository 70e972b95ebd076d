"""What each router did with two nodes, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS: Final = (
    "router",
    "version",
    "turns",
    "at the holder",
    "at each node",
    "kill: failed in flight",
    "kill: failed beyond",
    "streams, usage",
    "headers",
    "session at the node",
    "upgrade: turns",
    "upgrade: failed",
)


class Table:
    """Cells by router and by column; a cell that no test filled is empty."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, str]] = {}

    def fill(self, router: str, cells: dict[str, object]) -> None:
        """Fill cells of a router by the names of their columns."""
        row = self._rows.setdefault(router, {"router": router})
        for column, value in cells.items():
            assert column in COLUMNS, column
            row[column] = str(value)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def lines(self) -> Iterator[str]:
        """Yield the table's lines, as Markdown has tables."""
        rows = [COLUMNS, *(tuple(row.get(name, "") for name in COLUMNS) for row in self._all())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, tuple("-" * width for width in widths))
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield f"| {' | '.join(cells)} |"

    def _all(self) -> list[dict[str, str]]:
        return [self._rows[name] for name in sorted(self._rows)]
