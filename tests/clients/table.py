"""Keep what each client did with the node, and print the outcome as one table."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.clients.prefixes import PREFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: Final = ("text", "stream", "tool", "structured")
NOT_THERE: Final = "-"
"""The client has no such turn, or the test has no way to ask for one."""


class Table:
    """Outcomes by client and by kind of turn: "yes", "FAILED", NOT_THERE, or why not tried."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, str]] = {}

    def begin(self, label: str, *kinds: str) -> None:
        """Open a client's row: the turns of these kinds count as failed until they are seen."""
        self._rows[label] = {kind: "FAILED" if kind in kinds else NOT_THERE for kind in KINDS}

    def seen(self, label: str, kind: str) -> None:
        """Record a turn that went well."""
        self._rows[label][kind] = "yes"

    def skipped(self, label: str, reason: str) -> None:
        """Record why a client was not tried."""
        self._rows[label] = dict.fromkeys(KINDS, f"not tried: {reason}")

    def __bool__(self) -> bool:
        return bool(self._rows)

    def lines(self) -> Iterator[str]:
        """Yield the table's lines, as Markdown has tables."""
        rows = [("client", "version", *KINDS)]
        rows += [
            (label, _version(label), *(row[kind] for kind in KINDS))
            for label, row in sorted(self._rows.items())
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, tuple("-" * width for width in widths))
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield f"| {' | '.join(cells)} |"

    def write(self) -> None:
        """Write the table where MLX_WORKER_CLIENTS_TABLE says: NAME.json, or else Markdown."""
        named = os.environ.get("MLX_WORKER_CLIENTS_TABLE")
        if not named:
            return
        path = Path(named)
        if path.suffix == ".json":
            rows = {
                label: {"version": _version(label), **row}
                for label, row in sorted(self._rows.items())
            }
            path.write_text(json.dumps(rows, indent=1) + "\n")
        else:
            path.write_text("\n".join(self.lines()) + "\n")


def _version(label: str) -> str:
    """Return the version of the client that a label begins with; a longer name goes first."""
    names = sorted(PREFIXES, key=len, reverse=True)
    return next(PREFIXES[name].version for name in names if label.startswith(name))
