"""`/health` as a table for people, and as an exit code for scripts.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mlx_worker.config.sizes import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_CODES: Final = {
    "healthy": 0,
    "degraded": 3,
    "unhealthy": 4,
    "initializing": 5,
    "offline": 6,
}
"""Exit codes by the node's status; 69 if the node cannot be reached, 77 if it refuses the key."""

_COLOURS: Final = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}

Rates = dict[str, float]
"""Tokens per second, by model."""


def overview(url: str, body: Mapping[str, Any], rates: Rates | None = None) -> Group:
    """Return a node's `/health`: a line with the node's facts, and a row for each model.

    There is a column of tokens per second if `rates` are known.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("for", "pid", "run", "queue", "done"):
        table.add_column(name, justify="right", no_wrap=True)
    if rates is not None:
        table.add_column("tok/s", justify="right", no_wrap=True)
    for name in ("ms", "hits", "memory", "restarts"):
        table.add_column(name, justify="right", no_wrap=True)
    for id_, entry in body["models"].items():
        table.add_row(*_cells(id_, entry, rates))
    # Below the table: beside it, a line of 80 columns leaves a reason one word a row.
    reasons = [
        Text(f"{id_}: {entry['reason']}")  # brackets in it are no markup
        for id_, entry in body["models"].items()
        if entry["reason"]
    ]
    return Group(_headline(url, body), table, *reasons)


def _headline(url: str, body: Mapping[str, Any]) -> Text:
    memory, metrics, word = body["memory"], body["metrics"], body["status"]
    return Text.assemble(
        f"{_where(url, body)}  ",
        (word, _COLOURS.get(word, "")),
        f"  {metrics['requestsInFlight']} in flight, {metrics['totalRequests']} done"
        f"  memory {in_words(memory['usedBytes'])} of {in_words(memory['limitBytes'])}",
    )


def _where(url: str, body: Mapping[str, Any]) -> str:
    """Return the URL that was asked, or every one where the node listens at several."""
    addresses = body.get("addresses", ())  # a node of an earlier version has none
    return ", ".join(addresses) if len(addresses) > 1 else url


def _cells(id_: str, entry: Mapping[str, Any], rates: Rates | None) -> list[Text | str]:
    metrics = entry["metrics"]
    resident = entry["memory"]["residentBytes"]
    return [
        id_,
        Text(_state(entry), _COLOURS.get(entry["status"], "")),
        _since(entry),
        str(entry["pid"] or "-"),
        str(entry["running"]),
        str(entry["queueDepth"]),
        str(metrics["totalRequests"]),
        *([] if rates is None else [f"{rates.get(id_, 0.0):.1f}"]),
        f"{metrics['avgLatency']:.0f}",
        f"{metrics['cacheHitRate']:.0%}",
        in_words(resident) if resident else "-",
        str(entry["restarts"]),
    ]


def _state(entry: Mapping[str, Any]) -> str:
    loading = entry["loading"]
    if loading and loading["total"]:
        return f"{entry['state']} {loading['done'] / loading['total']:.0%}"
    return str(entry["state"])


def _since(entry: Mapping[str, Any]) -> str:
    entered = entry["enteredAt"].get(entry["state"])
    return "-" if entered is None else span(time.time() - entered / 1000)


def span(seconds: float) -> str:
    """Return a short duration, such as "42s", "3m", "5h" or "9d"."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"
