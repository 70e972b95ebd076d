"""An event of a stream, named by its type: how Responses and Messages write theirs. [front]"""

from __future__ import annotations

from typing import Any

from mlx_worker.json_output import encode


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event. `data` has its type first."""
    return b"event: %s\ndata: %s\n\n" % (data["type"].encode(), encode(data))
