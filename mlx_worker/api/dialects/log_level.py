"""Parse the body of `PUT /admin/logs/level`.

[front]
"""

from __future__ import annotations

import msgspec

from mlx_worker.api.dialects.base import decode
from mlx_worker.config.schema import LogLevel


class LevelBody(msgspec.Struct, frozen=True):
    """The lowest level of log lines that are shown."""

    level: LogLevel


def parse_level(body: bytes) -> LevelBody:
    """Return the body. Raises InvalidRequest that names the field."""
    return decode(body, LevelBody)
