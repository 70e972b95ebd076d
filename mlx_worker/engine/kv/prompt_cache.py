"""The KV of prompts already read, by prefix.

Entries are found by a `PrefixIndex`. mlx_lm's own `LRUPromptCache` evicts in the order of
insertion, drops a system prompt when a conversation extends the prompt, and searches in time that
grows with the square of the length found: too slow for a node that depends on reuse. The KV itself,
and cutting KV, are mlx_lm's.

The KV of a request in a named session is kept longer than that of an anonymous request, a system
prompt longer still, and a warmed prompt is evicted last. All calls that touch KV belong to the
engine's thread; `facts` may be read from any thread. [child]
"""

from __future__ import annotations

import copy
import hashlib
import threading
import time
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

from mlx_worker.engine.kv.prefix import common_prefix
from mlx_worker.engine.kv.prefix_index import Indexed, PrefixIndex, Tokens
from mlx_worker.limits import WARM_PROMPTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.history.memory import KnownTurns

MAX_ENTRIES = 2048
MAX_BYTES = 4 << 30
"""The default."""

MAX_REMEMBERED = 4096
"""System prefixes whose misses can be explained: 32 bytes each."""

Miss = Literal["", "new", "evicted", "cleared"]
"""Why a system prefix was not resident: never read, read and evicted since, or cleared."""


class RetentionClass(Enum):
    """Say how many times longer than an anonymous request's an entry is kept; None: pinned."""

    ANONYMOUS = 1
    SESSION = 4
    SYSTEM_PROMPT = 16
    PINNED = None


def compute_prompt_hash(prompt: str) -> str:
    """Return SHA-256 of the raw UTF-8 prompt, as 64 hex digits."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """The state of the cache: the prompt last warmed or used, and everything resident."""

    tokens: int = 0
    system_prompt_hash: str = ""
    last_updated: float = 0.0
    entries: int = 0
    warmed: int = 0
    nbytes: int = 0
    capacity: int = MAX_BYTES


@dataclass(slots=True, eq=False)
class CacheEntry(Indexed):
    """The KV of exactly these tokens; `used` counts uses of the cache, not seconds.

    `turns` are the answers among the tokens, None where there are none.
    """

    kv: list[Any]
    nbytes: int
    retention: RetentionClass
    used: int
    turns: KnownTurns | None = None


class CacheObserver(Protocol):
    """The receiver of what becomes of entries, whose KV never changes."""

    def on_stored(self, entry: CacheEntry) -> None:
        """Handle that an entry was stored."""

    def on_used(self, entry: CacheEntry, length: int) -> None:
        """Handle that the KV of the first `length` tokens of an entry was fetched."""

    def on_dropped(self, entry: CacheEntry, *, is_replaced: bool) -> None:
        """Handle the end of an entry: evicted, or replaced by an entry that has all its KV."""

    def on_cleared(self) -> None:
        """Handle that everything was cleared."""


def copy_layers(kv: list[Any], surplus: int) -> list[Any]:
    """Return a copy of KV, without its last `surplus` tokens."""
    copied = copy.deepcopy(list(kv))
    if surplus:
        trim_prompt_cache(copied, surplus)
    return copied


class PromptCache:
    """Store the KV of prefixes, and find the longest known prefix of a prompt.

    `observers` learn what becomes of entries. `copy_kv` copies KV that is fetched, `can_cut` says
    whether it can be cut. `reserved` bytes of the budget are for KV that is about to be stored.
    """

    observers: tuple[CacheObserver, ...] = ()
    copy_kv: Callable[[list[Any], int], list[Any]] = staticmethod(copy_layers)
    can_cut: Callable[[list[Any]], bool] = staticmethod(can_trim_prompt_cache)
    reserved = 0

    def __init__(self, max_bytes: int = MAX_BYTES, now: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._now = now
        self._lock = threading.Lock()
        self._facts = CacheFacts(capacity=max_bytes)
        self._uses = 0
        self._cleared: OrderedDict[bytes, bool] = OrderedDict()
        self._reset()

    def _reset(self) -> None:
        self._index: PrefixIndex[CacheEntry] = PrefixIndex()
        self._entries: dict[Tokens, CacheEntry] = {}
        # Of each class, the least recently used first.
        self._order: dict[RetentionClass, OrderedDict[Tokens, CacheEntry]] = {
            retention: OrderedDict() for retention in RetentionClass
        }
        self._nbytes = 0

    @property
    def facts(self) -> CacheFacts:
        """Return the latest facts, on any thread."""
        with self._lock:
            return self._facts

    # --- looking up ---

    def fetch(self, tokens: list[int], least: int = 1) -> tuple[list[Any] | None, int]:
        """Return a copy of the KV of the longest known prefix of `tokens`, and the prefix's length.

        None where the prefix is shorter than `least`. Never all of the tokens: the model must read
        the last one to generate the next.
        """
        key, length = self._longest(tuple(tokens[:-1]))
        if length < least:
            return None, 0
        self._use(key)
        for observer in self.observers:
            observer.on_used(self._entries[key], length)
        return self.copy_kv(self._entries[key].kv, len(key) - length), length

    def resident(self, tokens: list[int]) -> int:
        """Return the length of the longest known prefix of `tokens`."""
        return self._longest(tuple(tokens))[1]

    def explain_miss(self, system_prefix: list[int]) -> Miss:
        """Return why this system prefix missed the cache, and record the prefix as seen."""
        digest = hashlib.sha256(array("q", system_prefix)).digest()
        cleared = self._cleared.pop(digest, None)
        self._cleared[digest] = False
        if len(self._cleared) > MAX_REMEMBERED:
            self._cleared.popitem(last=False)
        if cleared is None:
            return "new"
        return "cleared" if cleared else "evicted"

    def _longest(self, tokens: Tokens) -> tuple[Tokens, int]:
        """Return the entry whose KV serves the longest prefix of `tokens`, and that length."""
        whole = next(self._index.prefixes(tokens), None)
        best = whole.tokens if whole else ()
        length = len(best)
        for entry in self._index.neighbours(tokens):
            shared = common_prefix(entry.tokens, tokens)
            if shared > length and self.can_cut(entry.kv):
                best, length = entry.tokens, shared
        return best, length

    # --- keeping ---

    def store(
        self,
        tokens: list[int],
        kv: list[Any],
        retention: RetentionClass,
        turns: KnownTurns | None = None,
    ) -> None:
        """Store the KV of exactly these tokens, and which answers are among them."""
        if not tokens:
            return
        key = tuple(tokens)
        known = self._entries.get(key)
        if known is not None:
            retention = max(retention, known.retention, key=_rank)
            self._drop(key, is_replaced=True)
        if self.can_cut(kv):
            # An earlier turn that this one extends can be cut out of it.
            earlier = [entry for entry in self._index.prefixes(key) if _is_turn(entry)]
            for turn in earlier:
                self._drop(turn.tokens, is_replaced=True)
        nbytes = sum(layer.nbytes for layer in kv)
        entry = CacheEntry(key, kv, nbytes, retention, self._uses, turns)
        self._entries[key] = self._order[retention][key] = entry
        self._index.add(entry)
        self._nbytes += entry.nbytes
        self._use(key)
        for observer in self.observers:
            observer.on_stored(entry)
        self._bound()
        self._refresh()

    def shrink_to_budget(self, running: int) -> None:
        """Evict what is over the budget, with `running` bytes of KV in running rows."""
        left = self._max_bytes - running - self.reserved
        while self._entries and self._nbytes > left:
            self._drop(self._victim())
        self._refresh()

    def trim(self, nbytes: int) -> None:
        """Evict entries of at least `nbytes` bytes, or all."""
        goal = self._nbytes - nbytes
        while self._entries and self._nbytes > goal:
            self._drop(self._victim())
        self._refresh()

    def record_use(self, tokens: int, system_prompt: str) -> None:
        """Record the system prompt used last, "" where there is none, and its resident tokens."""
        self._refresh(tokens, compute_prompt_hash(system_prompt) if system_prompt else "")

    def record_warmed(self, tokens: int, system_prompt: str) -> None:
        """Record the prompt that was warmed last; an empty one is a prompt like any other."""
        self._refresh(tokens, compute_prompt_hash(system_prompt))

    def clear(self) -> None:
        """Evict everything."""
        self._reset()
        self._cleared = OrderedDict.fromkeys(self._cleared, True)
        with self._lock:
            self._facts = CacheFacts(last_updated=self._now() * 1000, capacity=self._max_bytes)
        for observer in self.observers:
            observer.on_cleared()

    # --- forgetting ---

    def _use(self, key: Tokens) -> None:
        self._uses += 1
        entry = self._entries[key]
        entry.used = self._uses
        self._order[entry.retention].move_to_end(key)

    def _bound(self) -> None:
        warm = self._order[RetentionClass.PINNED]
        if len(warm) > WARM_PROMPTS:
            self._drop(next(iter(warm)))
        if len(self._entries) > MAX_ENTRIES:
            self._drop(self._victim())

    def _victim(self) -> Tokens:
        """Return the entry unused for longest, for its class; a pinned one if all are."""
        oldest = [
            (next(iter(order.items())), retention.value)
            for retention, order in self._order.items()
            if order and retention.value is not None
        ]
        if not oldest:
            return next(iter(self._order[RetentionClass.PINNED]))
        (key, _), _ = max(oldest, key=lambda item: (self._uses + 1 - item[0][1].used) / item[1])
        return key

    def _drop(self, key: Tokens, *, is_replaced: bool = False) -> None:
        entry = self._entries.pop(key)
        del self._order[entry.retention][key]
        self._index.remove(entry)
        self._nbytes -= entry.nbytes
        for observer in self.observers:
            observer.on_dropped(entry, is_replaced=is_replaced)

    def _refresh(self, tokens: int | None = None, digest: str | None = None) -> None:
        with self._lock:
            last = self._facts
            self._facts = CacheFacts(
                tokens=last.tokens if tokens is None else tokens,
                system_prompt_hash=last.system_prompt_hash if digest is None else digest,
                last_updated=last.last_updated if tokens is None else self._now() * 1000,
                entries=len(self._entries) - len(self._order[RetentionClass.PINNED]),
                warmed=len(self._order[RetentionClass.PINNED]),
                nbytes=self._nbytes,
                capacity=self._max_bytes,
            )


def _is_turn(entry: CacheEntry) -> bool:
    return entry.retention in (RetentionClass.ANONYMOUS, RetentionClass.SESSION)


def _rank(retention: RetentionClass) -> float:
    return float("inf") if retention.value is None else retention.value
