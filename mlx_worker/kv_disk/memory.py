"""How much memory the writing of KV to disk takes, outside the prompt cache.

Pure. [both]
"""

from __future__ import annotations

from typing import Final

from mlx_worker.kv_disk.writer import QUEUE_BYTES

EVICTED_BYTES: Final = 128 << 20
"""KV that the prompt cache has evicted, and that is held until its bytes are on disk."""

PACE_BYTES: Final = 64 << 20
"""Bytes in the queue of the writer from which no more KV is copied."""

WRITING_BYTES: Final = EVICTED_BYTES + PACE_BYTES
"""What writing takes, besides the copies of one record (see `writing_bytes`)."""

RECORD_COPIES: Final = 4
"""Copies of a record: on the device, for the queue, in the queue, and in the writer's buffer."""


def writing_bytes(largest_record: int) -> int:
    """Return the most bytes that writing takes, by the size of the model's largest record."""
    return WRITING_BYTES + RECORD_COPIES * min(largest_record, QUEUE_BYTES)
