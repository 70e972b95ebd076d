"""The service manager of this machine.

[front]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mlx_worker.errors import ServiceManagerError
from mlx_worker.service.launchd import Launchd
from mlx_worker.service.systemd import Systemd

if TYPE_CHECKING:
    from mlx_worker.service.definition import ServiceManager
    from mlx_worker.service.subprocess_runner import Run


def service_manager(
    run: Run, *, daemon: bool, platform: str = sys.platform, name: str = ""
) -> ServiceManager:
    """Return the service manager of this platform, for the service of this name.

    Raises ServiceManagerError if the platform has none that is supported.
    """
    if platform == "darwin":
        return Launchd(run, daemon, name)
    if platform == "linux":
        return Systemd(run, daemon, name)
    raise ServiceManagerError(f"no supported service manager on {platform}")
