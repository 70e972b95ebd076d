"""The body of `PUT /admin/logs/level`. [front]"""

from __future__ import annotations

import msgspec

from mlx_worker.api.dialect import decode
from mlx_worker.config import LogLevel


class LevelBody(msgspec.Struct, frozen=True):
    """From which level on lines are shown."""

    level: LogLevel


def parse_level(body: bytes) -> LevelBody:
    """Which level. Raises InvalidRequest, which names the field."""
    return decode(body, LevelBody)
