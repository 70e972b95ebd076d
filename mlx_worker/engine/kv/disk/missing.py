"""Which records of an entry the store does not have, found a few links of the chain at a time.

A long prompt has hundreds of links, and their keys take milliseconds: more than a step may be held
up. [child]
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS, Link, next_key
from mlx_worker.kv_disk.files.records import Address, Kind

if TYPE_CHECKING:
    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.engine.kv.prefix_index import Tokens


class MissingRecords:
    """The records of the first `stop` tokens that are not on disk, in the order of the tokens."""

    def __init__(self, tier: DiskTier, tokens: Tokens, stop: int) -> None:
        self._store = tier.store
        self._has_deltas = Kind.DELTA in tier.kinds
        self._ends = sorted(tier.kinds - {Kind.DELTA})
        self._tokens = tokens
        self._stop = stop
        self._start = 0
        self._parent = tier.identity.seed
        self._found: deque[tuple[Kind, Link]] = deque()

    @property
    def is_at_end(self) -> bool:
        """True if there are no more."""
        return not self._found and self._start >= self._stop

    def find(self, most: int) -> tuple[Kind, Link] | None:
        """Return the next record; None if there is none within the next `most` links."""
        while not self._found and self._start < self._stop and most > 0:
            self._look_at_next_link()
            most -= 1
        return self._found.popleft() if self._found else None

    def _look_at_next_link(self) -> None:
        stop = min(self._start + CHUNK_TOKENS, self._stop)
        key = next_key(self._parent, self._tokens[self._start : stop])
        link = Link(key, self._parent, self._start, stop)
        kinds = [Kind.DELTA] if self._has_deltas else []
        if stop == self._stop:
            kinds += self._ends
        self._found.extend(
            (kind, link) for kind in kinds if not self._store.contains(Address(kind, key))
        )
        self._start, self._parent = stop, key
