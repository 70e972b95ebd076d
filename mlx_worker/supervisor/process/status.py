"""What one process of a child has reported of itself.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_worker.wire.messages import Loaded, LoadProgress, Pong
    from mlx_worker.wire.prompt_cache import CacheState, DiskState


@dataclass(frozen=True, slots=True)
class RankStatus:
    """One of several processes that compute a model together; memory in bytes."""

    rank: int
    pid: int
    resident_bytes: int
    device_bytes: int


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """The latest reports of one process; a new process begins without any.

    `ranks` are all processes of a model that has several, () for any other model.
    `load_seconds` is the time from the start of the process until READY. `working_set` is in bytes,
    as the device recommends. `env` has the environment variables of the model's configuration.
    """

    pid: int | None = None
    loading: LoadProgress | None = None
    loaded: Loaded | None = None
    cache: CacheState | None = None
    disk: DiskState | None = None
    pong: Pong | None = None
    load_seconds: float | None = None
    versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    working_set: int | None = None
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ranks: tuple[RankStatus, ...] = ()

    @property
    def resident_bytes(self) -> int | None:
        """Return the resident memory that the process measured last; None before the first time."""
        return self.pong.resident_bytes if self.pong else None
