"""Find out what a client has to know of a running node.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.cli.client_blocks.client import ClientTarget
from mlx_worker.errors import UnknownModel

if TYPE_CHECKING:
    from mlx_worker.cli.client import NodeClient


async def target_of(node: NodeClient, model: str | None) -> ClientTarget:
    """Return the node's URL with a model's name and context length.

    Without a name, the first model that the node lists. Raises UnknownModel for a name that the
    node does not list, and what `NodeClient` raises.
    """
    listed = {entry["id"]: entry for entry in (await node.get("/v1/models"))["data"]}
    name = model or next(iter(listed))
    if name not in listed:
        raise UnknownModel(f"the node has no model {name!r}; it lists {', '.join(listed)}")
    return ClientTarget(node.url, name, listed[name]["context_length"])
