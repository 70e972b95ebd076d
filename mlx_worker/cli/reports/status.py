"""`/health` as a table for people, and as an exit code for scripts.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from mlx_worker.cli.reports.output import Column, Listing
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

COLOURS: Final = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}

MAX_ADDRESSES: Final = 3
"""URLs of a node in the headline; `status --json` has all."""

Rates = dict[str, float]
"""Tokens per second, by model."""

_COLUMNS: Final = (
    Column("model", justify="left"),
    Column("state", justify="left"),
    Column("for", 5),
    Column("pid", 9),
    Column("run", 1),
    Column("queue", 3),
    Column("done", 7),
    Column("tok/s", 2),
    Column("ms", 8),
    Column("cached", 4),
    Column("memory", 2),
    Column("restarts", 6),
)
"""`cached` is the share of the prompts' tokens that were in the prompt cache, `ms` the mean time of
a request."""


def overview(
    url: str, body: Mapping[str, Any], rates: Rates | None = None, width: int | None = None
) -> list[Text]:
    """Return a node's `/health`: a line with the node's facts, and a row for each model.

    There is a column of tokens per second if `rates` are known. `width` is that of the terminal.
    """
    columns = [column for column in _COLUMNS if rates is not None or column.title != "tok/s"]
    rows = [_cells(id_, entry, rates) for id_, entry in body["models"].items()]
    # Below the table: beside it, a line of 80 columns leaves a reason one word a row.
    reasons = [
        Text(f"{id_}: {_past(entry)}{entry['reason']}")
        for id_, entry in body["models"].items()
        if entry["reason"]
    ]
    return [_headline(url, body), *Listing(columns, rows).lines(width), *reasons]


def _past(entry: Mapping[str, Any]) -> str:
    """Return what sets the reason of the last restart apart from one that holds now."""
    return "last restart: " if (entry["status"], entry["state"]) == ("healthy", "ready") else ""


def _headline(url: str, body: Mapping[str, Any]) -> Text:
    memory, metrics, word = body["memory"], body["metrics"], body["status"]
    reports = [entry["metrics"] for entry in body["models"].values()]
    share = cached_share(*reports)
    return Text.assemble(
        f"{_where(url, body)}  ",
        (word, COLOURS.get(word, "")),
        f"  {metrics['requestsInFlight']} in flight, {metrics['totalRequests']} done",
        f"  memory {in_words(memory['usedBytes'])} of {in_words(memory['limitBytes'])}",
        "" if share is None else f"  {share} of prompt tokens cached",
    )


def _where(url: str, body: Mapping[str, Any]) -> str:
    """Return the URL that was asked, or the first ones where the node has several."""
    addresses = body.get("addresses", ())  # a node of an earlier version has none
    if len(addresses) <= 1:
        return url
    more = len(addresses) - MAX_ADDRESSES
    return ", ".join(addresses[:MAX_ADDRESSES]) + (f" and {more} more" if more > 0 else "")


def _cells(id_: str, entry: Mapping[str, Any], rates: Rates | None) -> list[Text | str]:
    metrics = entry["metrics"]
    resident = entry["memory"]["residentBytes"]
    return [
        id_,
        Text(state_in_words(entry), COLOURS.get(entry["status"], "")),
        _since(entry),
        str(entry["pid"] or "-"),
        str(entry["running"]),
        str(entry["queueDepth"]),
        str(metrics["totalRequests"]),
        *([] if rates is None else [f"{rates.get(id_, 0.0):.1f}"]),
        f"{metrics['avgLatency']:.0f}",
        cached_share(metrics) or "-",
        in_words(resident) if resident else "-",
        str(entry["restarts"]),
    ]


def cached_share(*metrics: Mapping[str, Any]) -> str | None:
    """Return the share of prompt tokens that were in the prompt cache; None before any prompt.

    The share is rounded down: "100%" means every token. A node of an earlier version counts none.
    """
    prompts = sum(each.get("promptTokens", 0) for each in metrics)
    cached = sum(each.get("cachedTokens", 0) for each in metrics)
    return f"{100 * cached // prompts}%" if prompts else None


def state_in_words(entry: Mapping[str, Any]) -> str:
    """Return a model's state, with the part of the weights that is loaded."""
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
