"""Which token sequences there are, and which of them begin with which.

They are kept in the order of their tokens, so that whoever shares the longest prefix with some
tokens stands next to where these would stand. Each knows the longest other that it begins with:
all that tokens begin with are their neighbour and what that one begins with, and are found without
a look at those that only come close, of which there is one at every place where a conversation was
left. Pure. [child]
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from mlx_worker.engine.prefix import common_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Indexed:
    """What can stand in an index. `within` is the longest other there that it begins with."""

    tokens: Tokens
    within: Self | None = field(default=None, init=False)


I = TypeVar("I", bound=Indexed)  # noqa: E741  (an indexed thing)

_tokens = attrgetter("tokens")


class PrefixIndex(Generic[I]):
    """No two in it have the same tokens."""

    def __init__(self) -> None:
        self._sorted: list[I] = []

    def add(self, new: I) -> None:
        """Take it in."""
        place = bisect_left(self._sorted, new.tokens, key=_tokens)
        new.within = next(self.prefixes(new.tokens), None)
        self._sorted.insert(place, new)
        for later in self._beginning_with(new, place):
            if later.within is new.within:
                later.within = new

    def remove(self, old: I) -> None:
        """Forget it."""
        place = bisect_left(self._sorted, old.tokens, key=_tokens)
        for later in self._beginning_with(old, place):
            if later.within is old:
                later.within = old.within
        del self._sorted[place]

    def prefixes(self, tokens: Tokens) -> Iterator[I]:
        """All that `tokens` begin with, the longest first. Not to be changed meanwhile."""
        place = bisect_right(self._sorted, tokens, key=_tokens)
        if not place:
            return
        before = self._sorted[place - 1]
        shared = common_prefix(before.tokens, tokens)
        it: I | None = before
        while it is not None:
            if len(it.tokens) <= shared:
                yield it
            it = it.within

    def neighbours(self, tokens: Tokens) -> list[I]:
        """One or two, of which one shares as much with `tokens` as any does."""
        place = bisect_left(self._sorted, tokens, key=_tokens)
        return self._sorted[max(0, place - 1) : place + 1]

    def _beginning_with(self, it: I, place: int) -> Iterator[I]:
        """All others that begin with this one, which stands there: they follow it."""
        size = len(it.tokens)
        for later in range(place + 1, len(self._sorted)):
            other = self._sorted[later]
            if other.tokens[:size] != it.tokens:
                return
            yield other
