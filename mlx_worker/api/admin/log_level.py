"""The body of `PUT /admin/logs/level`. [front]"""

from __future__ import annotations

import msgspec

from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.config.schema import LogLevel


class LevelBody(msgspec.Struct, frozen=True):
    """From which level on lines are shown."""

    level: LogLevel


def parse_level(body: bytes) -> LevelBody:
    """Which level. Raises InvalidRequest, which names the field."""
    return decode_body(body, LevelBody)
