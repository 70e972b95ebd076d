"""The memory that the KV on disk takes beside the prompt cache: agreed by child and front.

The front counts these bytes before a model starts (`supervisor/memory`), so the child may take no
more. [both]
"""

from __future__ import annotations

from typing import Final

_SHARE: Final = 16
_LEAST: Final = 64 << 20
"""A record of 256 tokens of a large model, which a smaller queue would always drop."""

_MOST_WRITTEN: Final = 512 << 20
_MOST_READ: Final = 256 << 20


def queue_bytes(cache_bytes: int) -> int:
    """Return the bytes of records that may wait for the writer, captured ones included."""
    return _share_of(cache_bytes, _MOST_WRITTEN)


def read_bytes(cache_bytes: int) -> int:
    """Return the bytes of records that may be read and not yet be in the prompt cache."""
    return _share_of(cache_bytes, _MOST_READ)


def tier_bytes(cache_bytes: int) -> int:
    """Return all bytes beside a prompt cache of this size: those that wait, and those read."""
    return queue_bytes(cache_bytes) + read_bytes(cache_bytes)


def _share_of(cache_bytes: int, most: int) -> int:
    return min(most, max(_LEAST, cache_bytes // _SHARE), cache_bytes // 2)
