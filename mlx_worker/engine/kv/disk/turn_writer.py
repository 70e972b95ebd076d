"""Turns to disk, when the KV of their tokens is written, and back when a model is loaded.

Without the tokens of a turn, the KV of the turn and of all behind it would lie on disk for nothing:
a template shows most turns otherwise than they were sampled. All calls of the writer belong to the
thread that owns mlx; a step looks a few turns up, and the thread of the tier writes. [child]
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from mlx_worker.engine.kv.disk.turn_records import address_of, record_of, turn_of
from mlx_worker.kv_disk.files.payload import nbytes_of
from mlx_worker.kv_disk.files.records import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.history.history import TurnHistory
    from mlx_worker.engine.history.memory import KnownTurns, SampledTurn
    from mlx_worker.engine.kv.disk.tier import DiskTier
    from mlx_worker.kv_disk.files.keys import KvIdentity
    from mlx_worker.kv_disk.store import DiskStore
    from mlx_worker.wire.splice import Splice

TURNS_A_STEP: Final = 16
"""Turns that one step looks up: less than a millisecond."""

MAX_QUEUED: Final = 1 << 16
"""Turns that wait to be looked at, the latest: while the disk cannot be written, none is."""

LOAD_SECONDS: Final = 0.5
"""Seconds in which turns are read while a model is loaded: those used last, some thousands."""


def load_turns(
    store: DiskStore,
    identity: KvIdentity,
    max_bytes: int,
    monotonic: Callable[[], float],
) -> list[SampledTurn]:
    """Return the turns on disk that were used last, the latest last, of at most `max_bytes`.

    What is not right is deleted and counted by the store.
    """
    until = monotonic() + LOAD_SECONDS
    turns: deque[SampledTurn] = deque()
    nbytes = 0
    for turn in store.load_all(Kind.TURN, partial(turn_of, identity)):
        nbytes += turn.nbytes
        if nbytes > max_bytes:
            break
        turns.appendleft(turn)
        if monotonic() > until:
            break
    return list(turns)


class TurnWriter:
    """Write the turns of entries whose KV is being written."""

    def __init__(self, tier: DiskTier, history: TurnHistory) -> None:
        self._tier = tier
        self._history = history
        self._queue: deque[SampledTurn | Splice] = deque(maxlen=MAX_QUEUED)
        self.waits_for_room = False
        """True if the writer's queue had no room for the next turn."""

    @property
    def has_work(self) -> bool:
        """True if there are turns to look at."""
        return bool(self._queue)

    def add(self, turns: KnownTurns, stop: int) -> None:
        """Have the turns written that begin within the first `stop` tokens of an entry."""
        self._queue.extend(turns.spliced)
        if turns.answer is not None and turns.begin < stop:
            self._queue.append(turns.answer)

    def clear(self) -> None:
        """Forget all turns."""
        self._queue.clear()
        self.waits_for_room = False

    def advance(self) -> None:
        """Hand the next turns that are not on disk to the tier's thread."""
        self.waits_for_room = False
        for _ in range(min(TURNS_A_STEP, len(self._queue))):
            if not self._write(self._queue[0]):
                self.waits_for_room = True
                return
            self._queue.popleft()

    def _write(self, known: SampledTurn | Splice) -> bool:
        """Write a turn unless the turn is on disk; False if the writer's queue has no room."""
        turn = self._history.turn_of(known)
        if turn is None or self._tier.store.use(address_of(self._tier.identity, turn)):
            return True
        record = record_of(self._tier.identity, turn)
        if record is None:
            return True
        queued = self._tier.writer.queued.nbytes
        if queued and queued + nbytes_of(record.payload) > self._tier.queue_bytes:
            return False
        self._tier.add(record, is_essential=True)
        return True
