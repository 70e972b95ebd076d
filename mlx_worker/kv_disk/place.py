"""Where the KV on disk lies, and how many bytes it may take unless the configuration says.

[both]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from mlx_worker.config.locate import expand_user
from mlx_worker.config.schema import APP

if TYPE_CHECKING:
    from mlx_worker.config.schema import CacheConfig

FOLDER_VARIABLE: Final = "MLX_WORKER_KV"
"""Environment variable with the folder, for a configuration that names none."""

_SHARE: Final = 10
"""The folder may hold a tenth of what the volume has free, with what the folder holds already."""

MOST_BY_DEFAULT: Final = 100 * 10**9
LEAST_BY_DEFAULT: Final = 10**6
"""The bound of a full volume: no less is one, and `disk_free_min` keeps what is free anyway."""


def kv_folder(config: CacheConfig) -> Path:
    """Return the folder of a configuration: its `path`, else that of $MLX_WORKER_KV or the user."""
    if config.path is not None:
        return config.path
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return expand_user(Path(named)).absolute()
    return platformdirs.user_cache_path(APP) / "kv"


def capacity_of(config: CacheConfig, *, free: int, held: int) -> int:
    """Return the bytes that the folder may hold, by what the volume has free and the folder holds.

    What the folder holds counts as free: the bound would shrink with each start otherwise.
    """
    if config.disk_cache_bytes is not None:
        return int(config.disk_cache_bytes)  # a `Size` has no form on the wire
    return max(LEAST_BY_DEFAULT, min((free + held) // _SHARE, MOST_BY_DEFAULT))
