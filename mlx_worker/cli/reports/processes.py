"""The processes of a node as a table.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.cli.reports.output import Column, Listing
from mlx_worker.config.sizes import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS: Final = (
    Column("pid"),
    Column("process", justify="left"),
    Column("model", justify="left"),
    Column("state", 2, justify="left"),
    Column("memory", 1),
)


def processes_listing(processes: Sequence[dict[str, Any]]) -> Listing:
    """Return a row for each process of `/admin/processes`."""
    return Listing(_COLUMNS, [_cells(process) for process in processes])


def _cells(process: dict[str, Any]) -> Sequence[str]:
    resident = process["residentBytes"]
    return (
        str(process["pid"]),
        process["kind"],
        process["model"] or "-",
        process["state"],
        "-" if resident is None else in_words(resident),
    )
