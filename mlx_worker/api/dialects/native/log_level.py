"""Parse the body of `PUT /admin/logs/level`.

[front]
"""

from __future__ import annotations

import msgspec

from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.config.schema import LogLevel


class LogLevelRequest(msgspec.Struct, frozen=True):
    """The lowest level of log lines that are shown."""

    level: LogLevel


def parse_log_level_body(data: bytes) -> LogLevelRequest:
    """Return the body. Raises InvalidRequest, which names the field."""
    return decode_body(data, LogLevelRequest)
