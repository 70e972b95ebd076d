"""What the headers of a folder's records say, without the store's index."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlx_worker.kv_disk.files.segments import Segments

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.kv_disk.files.records import Kind, RecordHeader


def headers_below(root: Path) -> list[RecordHeader]:
    """Return the headers of all records below the folder of the cache."""
    found: list[RecordHeader] = []
    for path in root.glob("*/"):
        descriptor = os.open(path, os.O_RDONLY)
        segments = Segments(descriptor, bytes.fromhex(path.name))
        for number in segments.numbers():
            found += [header for _, header in segments.scan(number)[0]]
        os.close(descriptor)
    return found


def kinds_on_disk(root: Path) -> set[Kind]:
    """Return the kinds of these records."""
    return {header.address.kind for header in headers_below(root)}
