"""The configured models as a table.

[front]
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence


def table_of(listed: Sequence[dict[str, Any]]) -> Table:
    """Return a table of what `/v1/models` lists: a row for each model, with its aliases."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    entries = {}
    for item in listed:
        entries[item["root"]] = item
        if item["id"] != item["root"]:
            names[item["root"]].append(item["id"])
    table = Table("model", "state", "context", "aliases", box=None, pad_edge=False)
    for id_, entry in entries.items():
        context = entry["context_length"]
        table.add_row(id_, entry["state"], str(context or "-"), ", ".join(names[id_]))
    return table
