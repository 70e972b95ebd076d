"""An index of token sequences: which of them does a sequence begin with.

The sequences are kept in the order of their tokens, so that the sequence with the longest prefix in
common with some tokens stands next to the place of these tokens. Each sequence links to the longest
other that it begins with. So all prefixes of some tokens are found along the links of one
neighbour, without a look at the sequences that only come close: there is one of those at every
place where conversations part. Pure. [child]
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from mlx_worker.engine.kv.prefix import common_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Indexed:
    """An entry of an index. `within` is the longest other entry that this one begins with."""

    tokens: Tokens
    within: Self | None = field(default=None, init=False)


I = TypeVar("I", bound=Indexed)  # noqa: E741  (an indexed thing)

_tokens = attrgetter("tokens")


class PrefixIndex(Generic[I]):
    """Find entries by the beginnings of token sequences. No two entries have the same tokens."""

    def __init__(self) -> None:
        self._sorted: list[I] = []

    def add(self, new: I) -> None:
        """Add an entry."""
        place = bisect_left(self._sorted, new.tokens, key=_tokens)
        new.within = next(self.prefixes(new.tokens), None)
        self._sorted.insert(place, new)
        for later in self._beginning_with(new, place):
            if later.within is new.within:
                later.within = new

    def remove(self, old: I) -> None:
        """Remove an entry."""
        place = bisect_left(self._sorted, old.tokens, key=_tokens)
        for later in self._beginning_with(old, place):
            if later.within is old:
                later.within = old.within
        del self._sorted[place]

    def prefixes(self, tokens: Tokens) -> Iterator[I]:
        """Yield all entries that `tokens` begin with, the longest first.

        The index may not change meanwhile.
        """
        place = bisect_right(self._sorted, tokens, key=_tokens)
        if not place:
            return
        before = self._sorted[place - 1]
        shared = common_prefix(before.tokens, tokens)
        entry: I | None = before
        while entry is not None:
            if len(entry.tokens) <= shared:
                yield entry
            entry = entry.within

    def neighbours(self, tokens: Tokens) -> list[I]:
        """Return one or two entries, one of which shares as much with `tokens` as any does."""
        place = bisect_left(self._sorted, tokens, key=_tokens)
        return self._sorted[max(0, place - 1) : place + 1]

    def _beginning_with(self, entry: I, place: int) -> Iterator[I]:
        """Yield all others that begin with the entry at `place`: they follow the entry."""
        size = len(entry.tokens)
        for later in range(place + 1, len(self._sorted)):
            other = self._sorted[later]
            if other.tokens[:size] != entry.tokens:
                return
            yield other
