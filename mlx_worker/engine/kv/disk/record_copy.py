"""The bytes of one record, on their way from the device to the writer's queue.

All calls belong to the thread that owns mlx. [child]
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from mlx_worker.engine.kv.disk.arrays import Captured
    from mlx_worker.kv_disk.files.payload import Payload


class RecordCopy:
    """A captured part of a cache, copied a few bytes at a time. `nbytes` are all of its bytes."""

    def __init__(self, captured: Captured) -> None:
        self.nbytes = sum(view.nbytes for view in captured.views)
        self._captured = replace(captured, views=())
        self._views: deque[Any] = deque(captured.views)
        self._parts: list[bytes] = []

    def evaluate(self) -> None:
        """Have the device make the bytes, behind the work that it has; do not wait."""
        mx.async_eval(list(self._views))  # type: ignore[no-untyped-call]

    def copy(self, most: int) -> bool:
        """Copy about `most` bytes; wait for what is not made yet. Return True once all are copied.

        An array is copied whole, and then released.
        """
        while self._views and most > 0:
            view = self._views.popleft()
            self._parts.append(bytes(memoryview(view)))
            most -= view.nbytes
        return not self._views

    def payload(self) -> Payload:
        """Return the payload of the record, of which all bytes are copied."""
        return self._captured.assemble(self._parts)
