"""The node's folder of KV on disk: its lock, its bounds, and what each new process is told.

The disk is asked in a daemon thread with a deadline, so a volume that does not answer holds up
neither the node nor a model. Where the folder cannot be used the node serves without KV on disk:
one line says why, and the folder is tried again whenever a process starts and at each reload.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from mlx_worker.config.sizes import in_words
from mlx_worker.errors import WorkerError, cause_of
from mlx_worker.kv_disk.account import Account
from mlx_worker.kv_disk.files.folder import lock, open_root
from mlx_worker.kv_disk.place import capacity_of, kv_folder
from mlx_worker.kv_disk.space import free_bytes_of
from mlx_worker.logs import Entry
from mlx_worker.system.daemon_threads import call_in_daemon_thread
from mlx_worker.wire.messages import DiskCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_worker.config.schema import CacheConfig

log = logging.getLogger(__name__)

DISK_TIMEOUT: Final = 5.0
"""Seconds that the disk may take to answer."""

TURNED_OFF: Final = "cache.disk is false"


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """A folder that this node has locked; the lock ends with the descriptor."""

    path: Path
    lock: int
    capacity: int
    free: int


class KvFolder:
    """The folder of one node. `off` is why no KV is kept on disk; "" where KV is kept.

    `open_folder` asks the disk, in a daemon thread.
    """

    def __init__(
        self,
        config: CacheConfig,
        timeout: float = DISK_TIMEOUT,
        open_folder: Callable[[CacheConfig], OpenFolder] | None = None,
    ) -> None:
        self.off = "" if config.disk else TURNED_OFF
        self.config = config
        self._timeout = timeout
        self._open_folder = open_folder or open_kv_folder
        self._opened: OpenFolder | None = None
        self._opening: asyncio.Future[OpenFolder] | None = None

    @property
    def settings(self) -> DiskCache | None:
        """Return what a new process is told of the folder; None: no KV is kept on disk."""
        opened = self._opened
        if opened is None:
            return None
        return DiskCache(
            path=str(opened.path),
            capacity=opened.capacity,
            writes_per_day=int(self.config.disk_writes_per_day),
            free_min=int(self.config.disk_free_min),
        )

    @property
    def is_wanted(self) -> bool:
        """True if the configuration wants KV on disk and the folder is not open."""
        return self.config.disk and self._opened is None

    async def apply(self, config: CacheConfig) -> bool:
        """Go by another configuration. Return True if processes have to be told of the change."""
        if config == self.config:
            await self.open()
            return False
        before = self.settings
        self.close()
        self.config = config
        self.off = "" if config.disk else TURNED_OFF
        await self.open()
        return self.settings != before

    async def open(self) -> None:
        """Open and lock the folder unless that is done; never raise.

        A disk that answers after the deadline is used from the next call on.
        """
        if not self.is_wanted:
            return
        if self._opening is None:
            call = partial(self._open_folder, self.config)
            self._opening = call_in_daemon_thread(call, "open the KV on disk")
        opening = self._opening
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await asyncio.wait({opening})
        if not opening.done():
            self._switch_off(f"{kv_folder(self.config)} does not answer within {self._timeout:g} s")
        elif opening is self._opening:
            self._opening = None
            self._take(opening)

    def close(self) -> None:
        """Release the folder for another node."""
        if self._opening is not None:
            self._opening.add_done_callback(_close_late)
            self._opening = None
        if self._opened is not None:
            os.close(self._opened.lock)
            self._opened = None

    def _take(self, opening: asyncio.Future[OpenFolder]) -> None:
        """Use the folder that was opened, and say so; or say why it cannot be used."""
        try:
            opened = self._opened = opening.result()
        except WorkerError as error:
            path = str(kv_folder(self.config))
            self._switch_off(error.message if path in error.message else f"{path}: {error.message}")
            return
        except Exception as error:  # noqa: BLE001  (whatever is wrong with the folder, models serve)
            self._switch_off(f"{kv_folder(self.config)}: {cause_of(error)}")
            return
        self.off = ""
        entry = Entry(
            "KV on disk",
            path=str(opened.path),
            at_most=in_words(opened.capacity),
            writes_per_day=in_words(self.config.disk_writes_per_day),
            free=in_words(opened.free),
        )
        log.info(entry)
        if opened.free < self.config.disk_free_min:
            least = in_words(self.config.disk_free_min)
            log.warning(Entry("no KV is written to disk", free=in_words(opened.free), least=least))

    def _switch_off(self, why: str) -> None:
        if why != self.off:
            log.warning(Entry("no KV on disk", why=why))
        self.off = why


def open_kv_folder(config: CacheConfig) -> OpenFolder:
    """Open and lock the folder, in a daemon thread. Raises StorageError or OSError."""
    path = kv_folder(config)
    root = open_root(path)
    try:
        held = lock(root, "node")
        try:
            _name_holder(held)
            free, total = free_bytes_of(root), Account(root, time.time).total()
        except BaseException:
            os.close(held)
            raise
    finally:
        os.close(root)
    return OpenFolder(path, held, capacity_of(config, free=free, held=total), free)


def _name_holder(held: int) -> None:
    """Write this process's number into the lock, for `mlx-worker doctor`."""
    with contextlib.suppress(OSError):  # a full or read-only volume: the lock holds all the same
        os.ftruncate(held, 0)
        os.pwrite(held, b"%d\n" % os.getpid(), 0)


def _close_late(opening: asyncio.Future[OpenFolder]) -> None:
    """Release a folder that was opened after the node had given up on it."""
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result().lock)
