"""The configured models as a table.

[front]
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.cli.reports.output import Column, Listing

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS: Final = (
    Column("model", justify="left"),
    Column("state", justify="left"),
    Column("context", 1, justify="left"),
    Column("aliases", 2, justify="left"),
)


def models_listing(listed: Sequence[dict[str, Any]]) -> Listing:
    """Return what `/v1/models` lists: a row for each model, with its aliases."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    entries = {}
    for item in listed:
        entries[item["root"]] = item
        if item["id"] != item["root"]:
            names[item["root"]].append(item["id"])
    rows = [
        (id_, entry["state"], str(entry["context_length"] or "-"), ", ".join(names[id_]))
        for id_, entry in entries.items()
    ]
    return Listing(_COLUMNS, rows)
