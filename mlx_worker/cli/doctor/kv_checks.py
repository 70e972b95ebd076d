"""Findings about the folder of KV on disk. Whatever is wrong with it, the node runs without it.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.cli.doctor.finding import Finding, ok, warn
from mlx_worker.config.sizes import in_words
from mlx_worker.errors import StorageError, cause_of
from mlx_worker.kv_disk.place import kv_folder
from mlx_worker.kv_disk.survey import remedy, survey

if TYPE_CHECKING:
    from mlx_worker.config.schema import Config
    from mlx_worker.kv_disk.survey import Survey

SUBJECT: Final = "KV on disk"


def kv_on_disk(config: Config) -> Finding:
    """Check that a node can use the folder, and that the volume has room for what is kept."""
    cache = config.cache
    if not cache.disk:
        return ok(SUBJECT, "off: cache.disk is false")
    try:
        found = survey(cache)
    except StorageError as error:
        return warn(SUBJECT, str(error), remedy(cache))
    except (OSError, ValueError) as error:
        return warn(SUBJECT, f"{kv_folder(cache)}: {cause_of(error)}", remedy(cache))
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
