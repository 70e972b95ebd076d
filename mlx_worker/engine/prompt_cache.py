"""The KV of prompts already read, by prefix.

Two of mlx_lm's prefix tries side by side: one for traffic, where least recently used entries go
first, and one for warmed system prompts, which ordinary traffic never evicts (every router start
warms a default prompt: several must stay). A lookup takes whichever knows the longer prefix.
All calls that touch KV belong to the engine's thread; `state` may be read from any. [child]
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from mlx_lm.models.cache import LRUPromptCache, can_trim_prompt_cache, trim_prompt_cache

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ENTRIES = 64
MAX_WARM = 8
MAX_BYTES = 4 << 30
"""Unless somebody says otherwise."""

_KEY = "model"  # a trie can serve several models; ours serves one


def compute_prompt_hash(prompt: str) -> str:
    """SHA-256 of the raw UTF-8 prompt, as 64 hex digits."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """A moment of the cache: the prompt last warmed or used, and everything resident."""

    tokens: int = 0
    system_prompt_hash: str = ""
    last_updated: float = 0.0
    entries: int = 0
    warmed: int = 0
    nbytes: int = 0
    capacity: int = MAX_BYTES


class PromptCache:
    """Prefixes in, their KV out."""

    def __init__(self, max_bytes: int = MAX_BYTES, now: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._now = now
        self._lock = threading.Lock()
        self._facts = CacheFacts(capacity=max_bytes)
        self._reset()

    def _reset(self) -> None:
        self._traffic = LRUPromptCache(max_size=MAX_ENTRIES)
        # Bounded in bytes by `fit`, with everything else; warmed prompts are the last to go.
        self._warm = LRUPromptCache(max_size=MAX_WARM)

    @property
    def facts(self) -> CacheFacts:
        """The latest facts, from any thread."""
        with self._lock:
            return self._facts

    def fetch(self, tokens: list[int]) -> tuple[list[Any] | None, int]:
        """KV of the longest known prefix of `tokens`, and its length in tokens.

        Never all of them: the model must read at least the last one to say what follows.
        """
        return max(
            (_nearest(trie, tokens) for trie in (self._traffic, self._warm)), key=itemgetter(1)
        )

    def resident(self, tokens: list[int]) -> int:
        """The length of the longest known prefix, without a copy of its KV."""
        return max(_length_known(trie, tokens) for trie in (self._traffic, self._warm))

    def keep(self, tokens: list[int], kv: list[Any], kind: str) -> None:
        """Remember the KV of exactly these tokens; `kind` as mlx_lm orders eviction."""
        if tokens:
            self._traffic.insert_cache(_KEY, list(tokens), kv, cache_type=kind)
            self._refresh()

    def keep_warm(self, tokens: list[int], kv: list[Any]) -> None:
        """Remember them beyond the reach of ordinary traffic."""
        if tokens:
            self._warm.insert_cache(_KEY, list(tokens), kv, cache_type="system")

    def fit(self, running: int) -> None:
        """Forget what is over the budget, with `running` bytes of KV in rows at work."""
        left = max(0, self._max_bytes - running)
        self._warm.trim_to(n_bytes=left)
        self._traffic.trim_to(n_bytes=left - self._warm.nbytes)
        self._refresh()

    def used(self, tokens: int, system_prompt: str) -> None:
        """Note the prompt that was warmed or used last: its resident tokens."""
        self._refresh(tokens, compute_prompt_hash(system_prompt) if system_prompt else "")

    def clear(self) -> None:
        """Forget everything."""
        self._reset()
        with self._lock:
            self._facts = CacheFacts(last_updated=self._now() * 1000, capacity=self._max_bytes)

    def _refresh(self, tokens: int | None = None, digest: str | None = None) -> None:
        with self._lock:
            last = self._facts
            self._facts = CacheFacts(
                tokens=last.tokens if tokens is None else tokens,
                system_prompt_hash=last.system_prompt_hash if digest is None else digest,
                last_updated=last.last_updated if tokens is None else self._now() * 1000,
                entries=len(self._traffic),
                warmed=len(self._warm),
                nbytes=self._traffic.nbytes + self._warm.nbytes,
                capacity=self._max_bytes,
            )


def _nearest(trie: LRUPromptCache, tokens: list[int]) -> tuple[list[Any] | None, int]:
    kv, rest = trie.fetch_nearest_cache(_KEY, tokens)
    if kv is not None and not rest:
        if can_trim_prompt_cache(kv):
            trim_prompt_cache(kv, 1)
            return kv, len(tokens) - 1
        kv, rest = trie.fetch_nearest_cache(_KEY, tokens[:-1])
        rest = [*rest, tokens[-1]]
    return (None, 0) if kv is None else (kv, len(tokens) - len(rest))


def _length_known(trie: LRUPromptCache, tokens: list[int]) -> int:
    # mlx_lm has no look-up that does not copy.
    found = trie._trie.search(_KEY, tokens)  # noqa: SLF001
    if found.exact is not None:
        return len(tokens)
    return max(len(found.shorter or ()), found.common_prefix if found.longer is not None else 0)
