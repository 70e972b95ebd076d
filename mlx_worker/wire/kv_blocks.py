"""Which blocks of KV are in the prompt cache of a process: what came into it, and what left it.

A block is a whole chunk of tokens behind all tokens before it. Only a process that is told to
reports blocks. [both]
"""

from __future__ import annotations

from mlx_worker.wire.base import WireMessage, WirePart


class StoredBlock(WirePart, frozen=True):
    """One block that came into the cache; `parent` None: the block begins a sequence.

    `hash` (64 bits) stands for the block and for every token before it. `tokens` are the token ids
    of the block alone, 32 bits each in the machine's byte order.
    """

    hash: int
    parent: int | None
    tokens: bytes


class KvBlocks(WireMessage, frozen=True):
    """Tell what changed: first `cleared` (of all blocks), then `removed`, then `stored`.

    Parents are stored before the blocks behind them, and removed after them. `count` blocks are in
    the cache after these changes, and `digest` is the exclusive or of their hashes.
    """

    count: int
    digest: int
    cleared: bool = False
    removed: list[int] = []
    stored: list[StoredBlock] = []
