"""Find out what a client has to know of a running node.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.cli.client.model_names import unknown_among
from mlx_worker.cli.client_blocks.client import ClientTarget

if TYPE_CHECKING:
    from mlx_worker.cli.client import NodeClient


async def target_of(node: NodeClient, model: str | None) -> ClientTarget:
    """Return the node's URL with a model's name and context length.

    Without a name, the first model that the node lists. Raises UnknownModel for a name that the
    node does not list, and what `NodeClient` raises.
    """
    listed = await node.models()
    names = [entry["id"] for entry in listed]
    name = model or names[0]
    if name not in names:
        raise unknown_among("the node", name, names)
    return ClientTarget(node.url, name, listed[names.index(name)]["context_length"])
