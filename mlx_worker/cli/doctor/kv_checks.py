"""Findings about the folder of KV on disk. Whatever is wrong with it, the node runs without it.

[front]
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from mlx_worker.cli.doctor.finding import Finding, ok, warn
from mlx_worker.config.sizes import in_words
from mlx_worker.errors import StorageError, cause_of
from mlx_worker.kv_disk.place import kv_folder
from mlx_worker.kv_disk.survey import remedy, survey
from mlx_worker.supervisor.kv_folder import DISK_TIMEOUT
from mlx_worker.system.daemon_threads import call_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config.schema import CacheConfig, Config
    from mlx_worker.kv_disk.survey import Survey

SUBJECT: Final = "KV on disk"


def kv_on_disk(
    config: Config,
    timeout: float = DISK_TIMEOUT,
    look: Callable[[CacheConfig], Survey] = survey,
) -> Finding:
    """Check that a node can use the folder, and that the volume has room for what is kept.

    `look` asks the disk, in a daemon thread: a volume that does not answer is a finding.
    """
    cache = config.cache
    if not cache.disk:
        return ok(SUBJECT, "off: cache.disk is false")
    try:
        found = call_within(timeout, partial(_found, cache, look), "look at the KV on disk")
    except TimeoutError:
        said = f"{kv_folder(cache)} does not answer within {timeout:g} s"
        return warn(SUBJECT, said, "mount the volume again, or name another folder by cache.path")
    return found if isinstance(found, Finding) else _judged(cache, found)


def _found(cache: CacheConfig, look: Callable[[CacheConfig], Survey]) -> Survey | Finding:
    """Return what the folder holds, or why a node cannot use the folder."""
    try:
        return look(cache)
    except StorageError as error:
        return warn(SUBJECT, str(error), remedy(cache))
    except (OSError, ValueError) as error:
        return warn(SUBJECT, f"{kv_folder(cache)}: {cause_of(error)}", remedy(cache))


def _judged(cache: CacheConfig, found: Survey) -> Finding:
    said = in_words_of(found)
    if found.free < cache.disk_free_min:
        least = in_words(cache.disk_free_min)
        advice = f"free some of the volume, or lower cache.disk_free_min ({least})"
        return warn(SUBJECT, f"{said}: nothing is written", advice)
    if found.capacity > found.free + found.held:
        advice = "lower cache.disk_cache_bytes, or name a larger volume by cache.path"
        return warn(SUBJECT, f"{said}: less than it may hold", advice)
    return ok(SUBJECT, said)


def in_words_of(found: Survey) -> str:
    """Return what was found as text."""
    used = f"; used by {found.holder}" if found.holder else ""
    return (
        f"{found.path}, {in_words(found.held)} of at most {in_words(found.capacity)},"
        f" {in_words(found.free)} free{used}"
    )
