"""The KV of one model on disk: the store, its writer, and what the model's layers need.

A tier is opened beside the rest of a load, because the index of a large folder takes a while. No
failure of the disk fails a load: the model then has no tier, or a store that is off. [child]
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.engine.history.memory import history_bytes
from mlx_worker.engine.kv.disk.arrays import kinds_of
from mlx_worker.engine.kv.disk.identity import identity_of
from mlx_worker.engine.kv.disk.turn_writer import load_turns
from mlx_worker.engine.kv.prompt_cache import MAX_BYTES
from mlx_worker.kv_disk.memory import queue_bytes
from mlx_worker.kv_disk.space import Limits
from mlx_worker.kv_disk.store import DiskStore
from mlx_worker.kv_disk.writer import DiskWriter
from mlx_worker.logs import Entry
from mlx_worker.wire.prompt_cache import DiskState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.engine.history.memory import SampledTurn
    from mlx_worker.kv_disk.files.keys import KvIdentity
    from mlx_worker.kv_disk.files.records import Kind, Record
    from mlx_worker.wire.messages import DiskCache

log = logging.getLogger(__name__)

OPEN_SECONDS: Final = 30.0
"""Seconds after which a load does not wait for the disk any more."""


class DiskTier:
    """The KV of one model on disk.

    `identity` is what the KV depends on besides the tokens, `kinds` are the kinds of records that
    the model's layers need. `cache_bytes` is the size of the prompt cache, by which the memory of
    the tier is bounded. `monotonic` is the clock of everything that is timed.
    """

    def __init__(
        self,
        store: DiskStore,
        model: Any,
        identity: KvIdentity,
        kinds: frozenset[Kind],
        disk: DiskCache,
        cache_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.identity = identity
        self.kinds = kinds
        self.disk = disk
        self.cache_bytes = cache_bytes
        self.queue_bytes = queue_bytes(cache_bytes)
        self.monotonic = monotonic
        self.writer = DiskWriter(store, self.queue_bytes, monotonic)
        self.changed = threading.Event()
        """Set when there may be something to report."""
        self._turns: list[SampledTurn] = []
        self._model = model
        self._lock = threading.Lock()
        self._hit_tokens = 0
        self._seconds_saved = 0.0

    @classmethod
    def open(
        cls,
        disk: DiskCache,
        model: Any,
        weights: str,
        versions: Mapping[str, str],
        *,
        cache_bytes: int = MAX_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> DiskTier | None:
        """Open the tier of a model now; None if the model's KV cannot be stored."""
        opening = TierOpening.start(
            disk, model, weights, versions, cache_bytes=cache_bytes, monotonic=monotonic
        )
        return opening.wait() if opening else None

    def load_turns(self, max_bytes: int) -> None:
        """Read the turns on disk that were used last; say once if what was read is damaged."""
        before = self.store.statistics.corrupt
        self._turns = load_turns(self.store, self.identity, max_bytes, self.monotonic)
        if damaged := self.store.statistics.corrupt - before:
            log.warning(Entry("earlier turns on disk are damaged and not used", turns=damaged))

    def take_turns(self) -> list[SampledTurn]:
        """Return the turns that were read, the one used last at the end, and forget them here."""
        turns, self._turns = self._turns, []
        return turns

    def new_cache(self) -> list[Any]:
        """Return a new cache of the model, to restore records into; on the thread that owns mlx."""
        return list(make_prompt_cache(self._model))

    def add(self, record: Record, *, is_essential: bool) -> None:
        """Have a record written, by the writer's thread."""
        self.writer.add(record, essential=is_essential)
        self.changed.set()

    def record_hit(self, tokens: int, seconds_saved: float) -> None:
        """Record that a prompt's tokens were read from disk, and how much prefill that saved."""
        with self._lock:
            self._hit_tokens += tokens
            self._seconds_saved += seconds_saved
        self.changed.set()

    def clear(self) -> bool:
        """Delete all records of the model, those in the queue too; False if the disk failed.

        The call waits for the disk: it does not belong to the thread that owns mlx.
        """
        self.writer.clear()
        is_cleared = self.store.clear()
        self.changed.set()
        return is_cleared

    @property
    def state(self) -> DiskState:
        """Return the state for a report, on any thread."""
        found = self.store.statistics
        with self._lock:
            hit_tokens, seconds_saved = self._hit_tokens, self._seconds_saved
        return DiskState(
            records=found.records,
            bytes=found.nbytes,
            total_bytes=found.total_bytes,
            capacity=self.disk.capacity,
            written_today=found.written_today,
            hits=found.hits,
            misses=found.misses,
            hit_tokens=hit_tokens,
            seconds_saved=seconds_saved,
            quarantined=found.quarantined,
            corrupt=found.corrupt,
            evicted_segments=found.evicted_segments,
            dropped=self.writer.queued.dropped,
            off=found.off,
        )

    def close(self, seconds: float) -> None:
        """Write what is queued, save the index and release the folder, within `seconds`.

        A disk that hangs is left to its thread: what was written is found by a scan.
        """
        deadline = self.monotonic() + seconds
        if self.writer.close(seconds / 2):
            closing = threading.Thread(target=self.store.close, name="kv-disk-close", daemon=True)
            closing.start()
            closing.join(max(0.0, deadline - self.monotonic()))


class TierOpening:
    """A tier that a thread opens beside the rest of a load."""

    def __init__(self, open_tier: Callable[[], DiskTier]) -> None:
        self._open_tier = open_tier
        self._tier: DiskTier | None = None
        self._lock = threading.Lock()
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name="kv-disk-open", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        disk: DiskCache,
        model: Any,
        weights: str,
        versions: Mapping[str, str],
        *,
        cache_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
        remember_turns: bool = True,
    ) -> TierOpening | None:
        """Start to open the tier of a model; None if the model's KV cannot be stored.

        The call belongs to the thread that owns mlx. `remember_turns`: earlier turns are read too.
        """
        cache = make_prompt_cache(model)
        kinds = kinds_of(cache)
        if kinds is None:
            layers = sorted({type(layer).__name__ for layer in cache})
            log.info(Entry("the KV of this model cannot be kept on disk", layers=layers))
            return None
        identity = identity_of(model, cache, weights, versions)

        def open_tier() -> DiskTier:
            limits = Limits(disk.capacity, disk.writes_per_day, disk.free_min)
            store = DiskStore(
                Path(disk.path), identity, limits, report=log.warning, monotonic=monotonic
            )
            tier = DiskTier(store, model, identity, kinds, disk, cache_bytes, monotonic)
            if remember_turns:
                tier.load_turns(history_bytes(cache_bytes))
            return tier

        return cls(open_tier)

    def wait(self, seconds: float = OPEN_SECONDS) -> DiskTier | None:
        """Return the tier once the tier is open; None if that failed or takes too long."""
        self._thread.join(seconds)
        with self._lock:
            self._is_given_up = self._thread.is_alive() and self._tier is None
            tier = self._tier
        if self._is_given_up:
            log.warning(Entry("the KV cache on disk is not used: opening takes too long"))
        elif tier is not None:
            tier.writer.start()
        return tier

    def _run(self) -> None:
        try:
            tier = self._open_tier()
        except Exception:
            log.exception(Entry("the KV cache on disk is not used"))
            return
        with self._lock:
            if not self._is_given_up:
                self._tier = tier
                return
        tier.store.close()  # else nothing could clear the folder as long as this process lives
