"""The section `[cache]`: the KV of prompts on disk, for all models together.

[both]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from mlx_worker.config.sizes import Size


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the prompt cache's tier on disk."""

    disk: Annotated[
        bool,
        Meta(
            description="The KV of prompts is also kept on disk, so that no prompt is read twice,"
            " also after a restart, an unload or a crash. The files can be read by this user only;"
            " from KV a reader can reconstruct what was said. False: nothing is written."
        ),
    ] = True
    path: Annotated[
        Path | None,
        Meta(
            description="Folder of the KV on disk, for one node only: a second node runs without KV"
            " on disk. Without this key: `$MLX_WORKER_KV`, else `kv` in the user's cache folder of"
            " mlx-worker."
        ),
    ] = None
    disk_cache_bytes: Annotated[
        Size | None,
        Meta(
            description="Bytes that the folder may hold at most, for all models together; at least"
            " 1 MB. Without this key: a tenth of what the volume has free at the start, with what"
            " the folder holds then, at most 100 GB."
        ),
    ] = None
    disk_writes_per_day: Annotated[
        Size,
        Meta(
            description="Bytes that are written in a day. Over this budget only system prompts"
            " and named sessions are written; with 0 nothing else is ever written."
        ),
    ] = Size(100 * 10**9)
    disk_free_min: Annotated[
        Size,
        Meta(
            description="Free bytes of the volume below which nothing is written, and KV on disk"
            " is deleted; at least 1 MB."
        ),
    ] = Size(10 * 10**9)
