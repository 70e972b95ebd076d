"""The section `[log]`: what the node logs, and where.

Applied by `mlx_worker.logs`. [both]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mlx_worker.config.sizes import Size

LogLevel = Literal["debug", "info", "warning", "error"]


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the log."""

    format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="`auto` writes text to a terminal and JSON lines to any other output."),
    ] = "auto"
    level: Annotated[
        LogLevel,
        Meta(
            description="Least severe level that is logged. While the node runs, SIGUSR1 sets the"
            " level to debug, and SIGUSR2 back to this one."
        ),
    ] = "info"
    file: Annotated[
        Path | None, Meta(description="Log file. Without this key the node logs to stderr.")
    ] = None
    max_bytes: Annotated[
        Size, Meta(description="Size at which the log file is renamed and a new one is begun.")
    ] = Size(16 << 20)
    keep: Annotated[
        int, Meta(ge=1, le=1000, description="Number of older log files that are kept.")
    ] = 5
