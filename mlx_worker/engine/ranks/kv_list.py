"""KV outside the batch that other ranks have parts of: a list of layers with a handle.

The lifetime of the list is that of the KV on all ranks: when rank 0 has dropped the list, the other
ranks free the handle. [child]
"""

from __future__ import annotations

from typing import Any, Final

NO_KV: Final = 0
"""The handle that stands for no KV."""


class KvList(list[Any]):
    """The layers of some tokens' KV on this rank; `handle` names the KV on all ranks."""

    __slots__ = ("__weakref__", "handle")

    def __init__(self, layers: list[Any], handle: int) -> None:
        super().__init__(layers)
        self.handle = handle
