"""The client of a running node: its address, its requests, and what goes wrong in words.

[front]
"""

from mlx_worker.cli.client.address import DEFAULT_URL, read_url, url_of
from mlx_worker.cli.client.node_client import NodeClient

__all__ = ["DEFAULT_URL", "NodeClient", "read_url", "url_of"]
