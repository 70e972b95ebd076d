"""The log file of a service whose configuration names none.

launchd only collects stderr in a file that grows without end. Its service therefore names a file in
a variable, and the node writes and rotates that file as `log.file` would be. [front]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

if TYPE_CHECKING:
    from mlx_worker.config.schema import LogConfig

LOG_VARIABLE: Final = "MLX_WORKER_LOG_FILE"


def with_the_services_file(config: LogConfig) -> LogConfig:
    """Return the configuration with the service's log file, unless it names a file itself."""
    named = os.environ.get(LOG_VARIABLE)
    return replace(config, file=Path(named)) if named and config.file is None else config
