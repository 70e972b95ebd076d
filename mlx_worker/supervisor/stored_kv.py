"""The KV on disk of models whatever they do now: list it, and clear what no process has open.

A process clears its own KV. The KV of a model that is not loaded, or was loaded with other weights,
is cleared here. The disk is asked in a daemon thread, so a volume that hangs holds up one request.

[front]
"""

from __future__ import annotations

import asyncio
import threading
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

MOST_CALLS: Final = 4
"""Calls that may wait for the disk at a time: a thread that a disk holds up never ends."""

_CALLS: Final = threading.BoundedSemaphore(MOST_CALLS)

T = TypeVar("T")


async def list_stored(folder: DiskCache) -> list[IdentityOnDisk]:
    """Return what each identity has on disk. Raises WorkerError where the disk fails."""
    return await _on_disk(partial(resting.list_stored, Path(folder.path)))


async def clear_stored(
    folder: DiskCache,
    models: Sequence[ModelRuntime],
    cleared: Collection[ModelRuntime],
    running: Collection[ModelRuntime],
    *,
    all_: bool,
) -> None:
    """Clear the KV on disk of models, or `all_` of it, but for what a process has open.

    The processes of the models `cleared` have cleared their own; those of the models `running` may
    have KV open. Raises ModelLoading where another process has some of this KV open, WorkerError
    where the disk fails.
    """
    ids = None if all_ else frozenset(model.config.id for model in models)
    in_use = await _on_disk(partial(_clear, Path(folder.path), ids))
    for model in models:
        if not model.child.serving:
            model.child.disk_totals.on_cleared()
    asked = {model.config.id for model in cleared}
    others = {model.config.id for model in running} - asked
    left = {name for models in in_use for name in _left(models, asked, others)}
    if left:
        names = ", ".join(map(repr, sorted(left)))
        raise ModelLoading(
            f"the KV on disk of {names} is in use: its process starts or ends, or was not cleared",
            retry_after=2,
        )


def _left(models: Sequence[str], asked: Collection[str], others: Collection[str]) -> list[str]:
    """Return the models that may have uncleared KV open; `models` are those that share this KV.

    Of models with the same weights one process has the KV open, and only that one can clear it.
    """
    holders = [name for name in models if name in others]
    if holders or any(name in asked for name in models):
        return holders
    return list(models[:1])


def _clear(path: Path, ids: frozenset[str] | None) -> list[tuple[str, ...]]:
    """Clear what has one of these names; return the names of what a process has open."""
    in_use = []
    for stored in resting.list_stored(path):
        is_meant = ids is None or ids.intersection(stored.models)
        if is_meant and not resting.clear(path, stored.identity):
            in_use.append(stored.models or (stored.identity,))
    return in_use


def _bounded(call: Callable[[], T]) -> T:
    """Make a call. Raises StorageError while too many others wait for the disk."""
    if not _CALLS.acquire(blocking=False):
        raise StorageError("earlier requests still wait for the disk")
    try:
        return call()
    finally:
        _CALLS.release()


async def _on_disk(call: Callable[[], T]) -> T:
    try:
        async with asyncio.timeout(DISK_TIMEOUT):
            return await call_in_daemon_thread(partial(_bounded, call), "KV on disk")
    except TimeoutError:
        raise WorkerError(f"KV on disk: no answer within {DISK_TIMEOUT:g} s") from None
    except StorageError as error:
        raise WorkerError(f"KV on disk: {error}") from error
    except OSError as error:
        raise WorkerError(f"KV on disk: {cause_of(error)}") from error
