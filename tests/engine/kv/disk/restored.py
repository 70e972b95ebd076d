"""A whole cache that is restored at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker.engine.kv.disk.restoring import Restoration
from mlx_worker.kv_disk.files.records import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.kv.disk.forms import LayerForm
    from mlx_worker.kv_disk.files.payload import Payload


def restore(
    cache: list[Any],
    forms: Sequence[LayerForm],
    records: Sequence[tuple[Kind, Payload]],
    stop: int,
    chunk: int = 256,
) -> None:
    """Fill a new cache with the records of `stop` tokens, the chunks in their order."""
    restoration = Restoration(cache, forms)
    start = 0
    for kind, payload in records:
        is_chunk = kind is Kind.DELTA
        begin, end = (start, min(start + chunk, stop)) if is_chunk else (0, stop)
        restoration.add(kind, begin, end, payload)
        start += chunk if is_chunk else 0
    assert restoration.join(stop, 1 << 40)
