"""What a model needs of memory, found in a process of its own that loads no weights.

[both]
"""

from __future__ import annotations

import msgspec

from mlx_worker.wire.kv_cost import KvCost


class MemoryNeeds(msgspec.Struct, frozen=True):
    """Describe a model that was built and not loaded.

    `weight_bytes` and `kv` are None where they are unknown; `unknown` says why. `unbatched` is why
    the node serves the model one row at a time, "" for a model that the node batches.
    `working_set`: bytes that the device recommends to hold at most; None where it names none.
    """

    weight_bytes: int | None
    kv: KvCost | None
    unbatched: str = ""
    working_set: int | None = None
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
