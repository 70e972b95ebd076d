"""The memory that the KV on disk takes beside the prompt cache: agreed by child and front.

The front counts these bytes before a model starts (`supervisor/memory`), so the child may take no
more. [both]
"""

from __future__ import annotations

from typing import Final

_SHARE: Final = 8
_MOST: Final = 512 << 20


def queue_bytes(cache_bytes: int) -> int:
    """Return the bytes of records that may wait for the writer, captured ones included."""
    return min(_MOST, cache_bytes // _SHARE)


def read_bytes(cache_bytes: int) -> int:
    """Return the bytes of records that may be read and not yet be in the prompt cache."""
    return min(_MOST, cache_bytes // _SHARE)


def tier_bytes(cache_bytes: int) -> int:
    """Return all bytes beside a prompt cache of this size: those that wait, and those read."""
    return queue_bytes(cache_bytes) + read_bytes(cache_bytes)
