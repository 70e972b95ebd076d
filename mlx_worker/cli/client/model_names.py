"""Check a model's name before a command uses the name, so that every command refuses it alike.

A node with a default model answers requests for any name with that model; a command must not, or a
mistyped name would pass as done. [front]
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import NodeUnreachable, Unauthorized, UnknownModel, WorkerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.cli.client.node_client import NodeClient

MAX_LISTED: Final = 20
"""Names in an error: more would hide the sentence."""

MAX_NEAR: Final = 3


async def model_names(node: NodeClient) -> list[str]:
    """Return the names that the node lists: of each model its id, then its aliases."""
    return [str(entry["id"]) for entry in await node.models()]


async def check_name(node: NodeClient, name: str | None) -> None:
    """Raise UnknownModel for a name that the node does not have; None is the default model."""
    if name is not None:
        await entries_of(node, name)


async def entries_of(node: NodeClient, name: str) -> list[dict[str, Any]]:
    """Return the entries of `/v1/models` with a model's id and aliases.

    A node that drains or has given up every model refuses the list: then the result is [], and
    the command's own request decides. Raises UnknownModel, with the names there are.
    """
    try:
        listed = await node.models()
    except (NodeUnreachable, Unauthorized):
        raise
    except WorkerError:
        return []
    for root in [entry["root"] for entry in listed if entry["id"] == name]:
        return [entry for entry in listed if entry["root"] == root]
    raise unknown_among("the node", name, [str(entry["id"]) for entry in listed])


def unknown_among(owner: str, name: str, known: Sequence[str]) -> UnknownModel:
    """Return the error about a name that is not among those that `owner` has."""
    said = f"{owner} has no model {name!r}"
    if not known:
        return UnknownModel(said, param="model")
    said += f", only {', '.join(known[:MAX_LISTED])}"
    if len(known) > MAX_LISTED:
        said += f" and {len(known) - MAX_LISTED} more"
    if near := near_names(name, known):
        said += f"; did you mean {' or '.join(map(repr, near))}?"
    return UnknownModel(said, param="model")


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Return the names that may be meant: alike in letters, or with the name as a part."""
    by_lower = {each.lower(): each for each in reversed(known)}
    wanted = name.lower()
    alike = difflib.get_close_matches(wanted, by_lower, n=MAX_NEAR)
    parts = [lower for lower in by_lower if wanted and wanted in lower and lower not in alike]
    return [by_lower[lower] for lower in (*alike, *reversed(parts))][:MAX_NEAR]
