"""The temporary folder of children, to which no other user can write.

On a CPU mlx compiles kernels into the temporary folder under names that follow from their code,
and loads the libraries that it finds there. In a folder that all users share, another user could
put a library there first, and a child would run it. The private folder is kept from one start to
the next, because compiling takes a second a kernel.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import platformdirs

from mlx_worker.config.schema import APP
from mlx_worker.system.private_folder import private_folder

if TYPE_CHECKING:
    from pathlib import Path


def scratch_folder() -> Path:
    """Return the temporary folder of children; create the folder if none exists.

    Raises OSError if the folder cannot be created, or if other users own it or may use it.
    """
    return private_folder(platformdirs.user_cache_path(APP) / "scratch")
