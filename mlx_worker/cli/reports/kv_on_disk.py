"""What is kept on disk, as a table; and what `verify` has found.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.cli.reports.output import Column, Listing
from mlx_worker.config.sizes import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHOWN: Final = 12
"""Characters of an identity: enough to name it."""

_COLUMNS: Final = (
    Column("model", justify="left"),
    Column("identity", justify="left"),
    Column("records", 3),
    Column("tokens", 2),
    Column("size"),
    Column("last used", 1, justify="left"),
)


def contents_listing(stored: Sequence[Mapping[str, Any]]) -> Listing:
    """Return a row for each identity of `GET /cache/disk`."""
    return Listing(_COLUMNS, [_cells(kv) for kv in stored])


def _cells(kv: Mapping[str, Any]) -> Sequence[str]:
    moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(kv["lastUsed"] / 1000))
    return (
        ", ".join(kv["models"]) or "-",
        kv["identity"][:_SHOWN],
        str(kv["records"]),
        str(kv["tokens"]),
        in_words(kv["bytes"]),
        moment,
    )


def verified_in_words(verified: Mapping[str, Any]) -> str:
    """Return what was found of one identity, in a line."""
    name = ", ".join(verified["models"]) or "unknown model"
    words = f"{name} ({verified['identity'][:_SHOWN]}): {verified['right']} records are right"
    if wrong := verified["wrong"]:
        left = wrong - verified["deleted"]
        words += f", {wrong} are damaged, {verified['deleted']} of them deleted"
        words += f", {left} in use by a node" if left else ""
    if unreadable := verified["unreadableBytes"]:
        words += f", {in_words(unreadable)} cannot be read"
    return words
