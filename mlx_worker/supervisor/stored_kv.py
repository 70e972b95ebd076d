"""The KV on disk of models whatever they do now: list it, and clear what no process has open.

A process clears its own KV. The KV of a model that is not loaded, or was loaded with other weights,
is cleared here. The disk is asked in a daemon thread, so a volume that hangs holds up one request.

[front]
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from mlx_worker.errors import ModelLoading, StorageError, WorkerError, cause_of
from mlx_worker.kv_disk import resting
from mlx_worker.system.daemon_threads import call_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from mlx_worker.kv_disk.resting import IdentityOnDisk
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.wire.messages import DiskCache

DISK_TIMEOUT: Final = 25.0
"""Seconds that the disk may take; commands wait 30 s for a node."""

T = TypeVar("T")


async def list_stored(folder: DiskCache) -> list[IdentityOnDisk]:
    """Return what each identity has on disk. Raises WorkerError where the disk fails."""
    return await _on_disk(partial(resting.list_stored, Path(folder.path)))


async def clear_stored(
    folder: DiskCache,
    models: Sequence[ModelRuntime],
    cleared: Collection[ModelRuntime],
    *,
    all_: bool,
) -> None:
    """Clear the KV on disk of models, or `all_` of it, but for what a process has open.

    The processes of the models `cleared` have cleared their own. Raises ModelLoading where another
    process has some of this KV open, WorkerError where the disk fails.
    """
    ids = None if all_ else frozenset(model.config.id for model in models)
    in_use = await _on_disk(partial(_clear, Path(folder.path), ids))
    for model in models:
        if not model.child.serving:
            model.child.disk_totals.on_cleared()
    left = in_use - {model.config.id for model in cleared}
    if left:
        names = ", ".join(map(repr, sorted(left)))
        raise ModelLoading(
            f"the KV on disk of {names} is in use: its process starts or ends, or was not cleared",
            retry_after=2,
        )


def _clear(path: Path, ids: frozenset[str] | None) -> set[str]:
    """Clear what has one of these names; return the names whose KV a process has open."""
    in_use: set[str] = set()
    for stored in resting.list_stored(path):
        is_meant = ids is None or ids.intersection(stored.models)
        if is_meant and not resting.clear(path, stored.identity):
            in_use.update(stored.models[:1])
    return in_use


async def _on_disk(call: Callable[[], T]) -> T:
    try:
        async with asyncio.timeout(DISK_TIMEOUT):
            return await call_in_daemon_thread(call, "KV on disk")
    except TimeoutError:
        raise WorkerError(f"KV on disk: no answer within {DISK_TIMEOUT:g} s") from None
    except StorageError as error:
        raise WorkerError(f"KV on disk: {error}") from error
    except OSError as error:
        raise WorkerError(f"KV on disk: {cause_of(error)}") from error
