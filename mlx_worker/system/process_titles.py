"""Process titles: what `ps` shows of a node's processes, with the port of the node.

[both]
"""

from __future__ import annotations

import os
from typing import Final

import setproctitle

PORT_VARIABLE: Final = "MLX_WORKER_PORT"
"""Set by the front once the node listens; children inherit the variable."""


def set_title(role: str) -> None:
    """Show `mlx-worker: role`, and the node's port where that is known."""
    port = os.environ.get(PORT_VARIABLE)
    setproctitle.setproctitle(f"mlx-worker: {role}" + (f", port {port}" if port else ""))


def set_port(port: int) -> None:
    """Name the port in the titles of this process and of children started from now on."""
    os.environ[PORT_VARIABLE] = str(port)
