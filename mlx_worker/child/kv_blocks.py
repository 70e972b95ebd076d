"""Which blocks of KV the prompt cache has, and the reports of what changed.

A block is a chunk of `CHUNK_TOKENS` tokens, as on disk, with all tokens before it. Entries share
blocks, so each block is counted. The thread that owns mlx only names the entries that came and
went; a thread of this module hashes their tokens and sends the reports. [child]
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import Counter
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, TypeVar

from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS
from mlx_worker.wire.kv_blocks import KvBlocks, StoredBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mlx_worker.engine.kv.prompt_cache import CacheEntry
    from mlx_worker.wire.base import WireMessage

STORED_A_REPORT: Final = 64
"""Blocks, about 64 kB: the front's event loop turns each report into one message."""

REMOVED_A_REPORT: Final = 1024

HASH_BYTES: Final = 8

_PERSON: Final = b"mlxworker-block"

T = TypeVar("T")


def block_hash(parent: int | None, tokens: bytes) -> int:
    """Return the hash of a block by that of its parent; `tokens` as in `StoredBlock`."""
    before = b"" if parent is None else parent.to_bytes(HASH_BYTES, "big")
    digest = hashlib.blake2b(before, digest_size=HASH_BYTES, person=_PERSON)
    digest.update(tokens)
    return int.from_bytes(digest.digest(), "big")


class BlockIndex:
    """Count the entries that have each block, and collect what changed since the last reports.

    What comes and goes between two reports is in neither.
    """

    def __init__(self) -> None:
        self._is_cleared = False
        self._reset()

    def _reset(self) -> None:
        self._hashes: dict[tuple[int, ...], list[int]] = {}
        self._uses: Counter[int] = Counter()
        self._reported: set[int] = set()
        self._digest = 0
        # What is not reported yet; both in the order of the changes.
        self._stored: dict[int, StoredBlock] = {}
        self._removed: dict[int, None] = {}

    def add(self, tokens: tuple[int, ...]) -> None:
        """Add an entry."""
        hashes = self._hashes[tokens] = []
        parent: int | None = None
        for start in range(0, len(tokens) - CHUNK_TOKENS + 1, CHUNK_TOKENS):
            data = array("I", tokens[start : start + CHUNK_TOKENS]).tobytes()
            own = block_hash(parent, data)
            self._uses[own] += 1
            if own in self._reported:
                self._removed.pop(own, None)
            elif own not in self._stored:
                self._stored[own] = StoredBlock(own, parent, data)
            hashes.append(own)
            parent = own

    def remove(self, tokens: tuple[int, ...]) -> None:
        """Remove an entry; do nothing if there is none of these tokens."""
        for own in reversed(self._hashes.pop(tokens, ())):
            self._uses[own] -= 1
            if self._uses[own]:
                continue
            del self._uses[own]
            if self._stored.pop(own, None) is None:
                self._removed[own] = None

    def clear(self) -> None:
        """Remove all entries."""
        self._reset()
        self._is_cleared = True

    def reports(self) -> Iterator[KvBlocks]:
        """Yield what changed since the last reports; nothing may change meanwhile."""
        cleared, self._is_cleared = self._is_cleared, False
        removed, self._removed = self._removed, {}
        stored, self._stored = self._stored, {}
        if cleared:
            yield self._report(cleared=True)
        for hashes in _parts(list(removed), REMOVED_A_REPORT):
            self._toggle(hashes)
            yield self._report(removed=hashes)
        for blocks in _parts(list(stored.values()), STORED_A_REPORT):
            self._toggle([block.hash for block in blocks])
            yield self._report(stored=blocks)

    def _toggle(self, hashes: Iterable[int]) -> None:
        self._reported.symmetric_difference_update(hashes)
        for own in hashes:
            self._digest ^= own

    def _report(
        self,
        *,
        cleared: bool = False,
        removed: list[int] | None = None,
        stored: list[StoredBlock] | None = None,
    ) -> KvBlocks:
        return KvBlocks(len(self._reported), self._digest, cleared, removed or [], stored or [])


def _parts(items: Sequence[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


class BlockReporter:
    """Observe a prompt cache, and send `KvBlocks` on a thread of its own.

    The queue needs no bound: its tokens are those of entries, and a front that reads nothing stops
    the engine in its next step.
    """

    def __init__(self, send: Callable[[Iterable[WireMessage]], None]) -> None:
        self._send = send
        self._index = BlockIndex()
        self._changes: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def start(self) -> None:
        """Start the thread, which ends with the process."""
        threading.Thread(target=self._run, name="kv-blocks", daemon=True).start()

    # --- the observer of the prompt cache, on the thread that owns mlx ---

    def on_stored(self, entry: CacheEntry) -> None:
        """Note an entry that has at least one whole block."""
        if len(entry.tokens) >= CHUNK_TOKENS:
            self._changes.put(partial(self._index.add, entry.tokens))

    def on_used(self, entry: CacheEntry, length: int) -> None:
        """Ignore that an entry was used."""

    def on_dropped(self, entry: CacheEntry, *, is_replaced: bool) -> None:
        """Note the end of an entry, whose blocks may be those of its successor."""
        del is_replaced
        if len(entry.tokens) >= CHUNK_TOKENS:
            self._changes.put(partial(self._index.remove, entry.tokens))

    def on_cleared(self) -> None:
        """Note that everything was cleared."""
        self._changes.put(self._index.clear)

    # --- the thread ---

    def _run(self) -> None:
        while True:
            self._changes.get()()
            self.report()

    def report(self) -> None:
        """Apply all changes that wait, and send what they come to."""
        while not self._changes.empty():
            self._changes.get()()
        for report in self._index.reports():
            self._send([report])
