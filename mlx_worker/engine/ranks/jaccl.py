"""Joining a group that exchanges its results by RDMA over Thunderbolt, mlx's backend JACCL.

mlx reads the devices from a file, and the address of the coordinator, which is rank 0, from the
environment. This has not been run: it needs Macs with Thunderbolt 5. [child]
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_worker.engine.ranks.ring import ending_after
from mlx_worker.errors import UnservableModel

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_jaccl() -> None:
    """Raise UnservableModel where this build of mlx has no JACCL."""
    if not mx.distributed.is_available("jaccl"):
        raise UnservableModel(
            f"transport: mlx {mx.__version__} has no JACCL here;"  # type: ignore[attr-defined]
            ' transport = "ring" needs none'
        )


def join_jaccl(
    rank: int, coordinator: str, devices: Sequence[Sequence[str | None]], seconds: float
) -> mx.distributed.Group:
    """Return the group of all ranks, as `join_ring` does. Raises RuntimeError."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, ending_after(seconds):
        json.dump(devices, file)
        file.flush()
        os.environ["MLX_IBV_DEVICES"], os.environ["MLX_RANK"] = file.name, str(rank)
        os.environ["MLX_JACCL_COORDINATOR"] = coordinator
        return mx.distributed.init(strict=True, backend="jaccl")
