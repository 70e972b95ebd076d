"""Write the settings that a client needs for a running node, a block a client.

The blocks are data that three places share: `mlx-worker client-config` prints them for a node,
docs/how-to/clients.md shows them for an example, and `tox -e clients` runs each client with its
block. [front]
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mlx_worker.cli.client_blocks.agents import AGENTS
from mlx_worker.cli.client_blocks.evaluation import EVALUATION
from mlx_worker.cli.client_blocks.libraries import LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_worker.cli.client_blocks.client import ClientBlock

CLIENTS: Final[Mapping[str, ClientBlock]] = MappingProxyType(
    {client.name: client for client in (*AGENTS, *LIBRARIES, *EVALUATION)}
)
"""Every client that `client-config` knows, by its name."""
