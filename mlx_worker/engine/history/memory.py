"""Which tokens the model sampled after which text, bounded by bytes.

A turn is found by the text of the prompt that the turn answered, not by the ids of its calls: KV is
reused only where all text before is the same, clients and proxies rename calls, and some models
number their calls from 0 in every conversation. The turns used last are kept. Answers are added by
the engine's thread and looked up by those that prepare prompts. [child]
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlx_worker.wire.splice import Splice

MAX_BYTES: Final = 64 << 20
SHARE: Final = 16
"""The share of the prompt cache's bytes that remembered turns may have beside it."""

PER_TEXT: Final = 64
"""Answers to one text that are remembered, the newest: choices, and answers asked for again."""

MAX_LEAD: Final = 1 << 16
"""Characters of an answer's beginning that the client wrote, up to which the turn is remembered."""

DIGEST_BYTES: Final = 16

_OVERHEAD: Final = 400
"""Bytes of a remembered turn beside its tokens."""


@dataclass(frozen=True, slots=True)
class TurnPlace:
    """Say where an answer begins in the text of its prompt.

    `anchor` is the text of the last added token of the prompt, and `digest` is of all text up to
    the anchor's end. `lead` is the text from there to the answer, and `state` the state of the
    output in which the answer begins.
    """

    anchor: str
    digest: bytes
    lead: str
    state: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Say that the first `tokens` of a turn mean the first `characters` of its rendering."""

    tokens: int
    characters: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hold how much of a turn means the same as one rendering; None: nothing does.

    A rendering is known by its length in characters and by its digest.
    """

    length: int
    digest: bytes
    cut: Cut | None


@dataclass(slots=True, eq=False)
class SampledTurn:
    """Hold one answer: its tokens in four bytes each, and the stop string that ended it, if any.

    `compared` is what the last comparison with a rendering found; several threads set it.
    """

    place: TurnPlace
    tokens: bytes
    stop: str = ""
    compared: Comparison | None = None

    @property
    def nbytes(self) -> int:
        """Return about how much memory the turn takes."""
        return _OVERHEAD + len(self.tokens) + 2 * len(self.place.lead + self.stop)


@dataclass(frozen=True, slots=True)
class KnownTurns:
    """Hold the turns in the tokens of a row.

    `spliced` are those of its prompt; `answer` is its own, which begins at the token `begin`.
    """

    spliced: tuple[Splice, ...]
    answer: SampledTurn | None
    begin: int


def history_bytes(cache_bytes: int) -> int:
    """Return the bytes of remembered turns beside a prompt cache of this size."""
    return min(MAX_BYTES, cache_bytes // SHARE)


class TurnMemory:
    """Remember turns by the digest of the text before them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._turns: OrderedDict[bytes, list[SampledTurn]] = OrderedDict()
        self._anchors: dict[str, None] = {}
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Return about how much memory all turns take."""
        return self._nbytes

    @property
    def anchors(self) -> list[str]:
        """Return the texts that a remembered turn may follow; a model has one or two."""
        with self._lock:
            return list(self._anchors)

    def add(self, turn: SampledTurn) -> None:
        """Remember a turn, and forget those that were not used for longest."""
        place = turn.place
        with self._lock:
            turns = self._turns.setdefault(place.digest, [])
            self._turns.move_to_end(place.digest)
            known = [same for same in turns if _is_same(same, turn)]
            for forgotten in known or turns[: max(0, len(turns) + 1 - PER_TEXT)]:
                turns.remove(forgotten)
                self._nbytes -= forgotten.nbytes
            turns.append(known[0] if known else turn)
            self._nbytes += turn.nbytes
            self._anchors[place.anchor] = None
            while self._nbytes > self._max_bytes:
                _, oldest = self._turns.popitem(last=False)
                self._nbytes -= sum(turn.nbytes for turn in oldest)

    def answers_to(self, digest: bytes) -> list[SampledTurn]:
        """Return the turns that followed the text with this digest, the oldest first."""
        with self._lock:
            turns = self._turns.get(digest)
            if turns is None:
                return []
            self._turns.move_to_end(digest)
            return list(turns)

    def clear(self) -> None:
        """Forget all turns."""
        with self._lock:
            self._turns.clear()
            self._anchors.clear()
            self._nbytes = 0


def turn_of(splice: Splice, lead: str) -> SampledTurn:
    """Return the turn that a former process has spliced; `lead` is the text in front of it."""
    place = TurnPlace(splice.anchor, splice.digest, lead, splice.state)
    return SampledTurn(place, splice.tokens)


def _is_same(one: SampledTurn, other: SampledTurn) -> bool:
    return (one.place, one.tokens, one.stop) == (other.place, other.tokens, other.stop)
