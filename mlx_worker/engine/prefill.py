"""Which sequences may start to read their prompts, and how much is read between two decode steps.

Three promises. Running streams keep their pace: while any row decodes, all readers together get one
chunk a step, no larger than what is read in the pause that the configuration allows. A short prompt
does not wait behind long ones: long prompts may take only half of the reading rows. What several
prompts share is read once: a later sequence waits until an earlier one has read the shared prefix.
Pure: sequences in, decisions out. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.engine.kv.prefix import WORTH_FETCHING, begins_alike, common_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Sequence as Listed

    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.engine.sequence import Sequence
    from mlx_worker.wire.kv_cost import KvCost

READERS = 8
"""Prompts read side by side."""

LONG = 512
"""Unread tokens from which a prompt counts as long."""

LONG_READERS = READERS // 2

SMALLEST_CHUNK = 16
LARGEST_CHUNK = 2048
"""Prompt tokens, of all readers together, between two steps."""

SMALLEST_CHUNK_ALONE = 32
"""The same while no row decodes. Each chunk reads all weights and all KV before it, however small:
behind 5,000 tokens SmolLM2 on a CPU takes 56, 48 and 47 ms a token in chunks of 16, 32 and 64."""

FIRST_CHUNK = 64
"""The same beside decoding rows, before the speed of this model is known."""

FIRST_CHUNK_ALONE = 256
"""The same while no row decodes. A slow model would be silent for half a minute over the largest
chunk, and clients give up."""

ALONE = 8
"""How many times longer a chunk may take while no row decodes: only new requests and cancels wait
for the chunk."""

PAUSE = 0.1
"""Seconds for which reading may delay decoding between two steps, by default."""

WORTH_WAITING = 64
"""Shared tokens below which reading them twice is cheaper than waiting."""


class ChunkSizer:
    """Choose how many tokens are read in a `pause`, by the speed of reading so far.

    Sizes are powers of two: a device likes few shapes, and the same prompt is mostly cut the same
    way.
    """

    def __init__(self, pause: float = PAUSE) -> None:
        self._pause = pause
        self._rate: float | None = None

    def record(self, tokens: int, seconds: float) -> None:
        """Record how many tokens were read in how many seconds."""
        if tokens and seconds > 0:
            rate = tokens / seconds
            self._rate = rate if self._rate is None else (self._rate + rate) / 2

    def chunk_size(
        self, readers: Listed[Sequence], *, decoding: bool, most: int = LARGEST_CHUNK
    ) -> int:
        """Return how many tokens each reader reads next: about `most` of them at most."""
        together = self._together(self._pause if decoding else self._pause * ALONE, decoding)
        each = min(most, together // max(1, len(readers)))
        return chunk_past_segment_ends(max(SMALLEST_CHUNK, each), readers)

    @property
    def rate(self) -> float | None:
        """Return the tokens read in a second; None before any were read."""
        return self._rate

    def _together(self, seconds: float, decoding: bool) -> int:
        if self._rate is None:
            return FIRST_CHUNK if decoding else FIRST_CHUNK_ALONE
        smallest = SMALLEST_CHUNK if decoding else SMALLEST_CHUNK_ALONE
        fitting = max(smallest, int(self._rate * seconds))
        return min(LARGEST_CHUNK, 1 << (fitting.bit_length() - 1))


def chunk_past_segment_ends(size: int, readers: Listed[Sequence]) -> int:
    """Return a chunk size, at least `size`, that leaves no reader one token before a segment end.

    Where a sliding window is full, mlx_lm 0.32.2 masks what follows a chunk of one token wrongly
    for padded rows (`BatchRotatingKVCache.make_mask` takes the place in the ring for its width).
    """
    left = {end - reader.read for reader in readers for end in reader.segment_ends}
    while size + 1 in left:
        size += 1
    return size


def choose_segment_ends(prompt: Prompt, cached: int, *, every_segment: bool) -> list[int]:
    """Return the places where reading stops, so that the KV up to there can be stored.

    `every_segment` False: only the end of the system prefix, because the KV can be cut later. No
    place is one token after the place before: see `chunk_past_segment_ends`.
    """
    chosen: list[int] = []
    last = cached
    for end in prompt.all_segment_ends if every_segment else [prompt.system_prefix]:
        if end - last > 1:
            chosen.append(end)
            last = end
    return chosen


def find_prefix_leader(new: Sequence, others: Iterable[Sequence], *, any_length: bool) -> None:
    """Have `new` wait for the earlier sequence with which it shares most, if waiting pays.

    `any_length`: the model's KV can be cut anywhere; else only whole segments can be reused.
    """
    tokens = new.prompt.tokens
    for other in others:
        worth = max(other.cached + WORTH_WAITING, new.shared_prefix + 1)
        if not begins_alike(tokens, other.prompt.tokens, worth):
            continue
        shared = common_prefix(tokens, other.prompt.tokens)
        segments = (end for end in other.prompt.all_segment_ends if end <= shared)
        usable = shared if any_length else max(segments, default=0)
        if usable - other.cached >= WORTH_WAITING and usable > new.shared_prefix:
            new.prefix_leader, new.shared_prefix = other, usable


def min_prefix_to_reuse(system_prefix: int) -> int:
    """Return how many tokens a resident prefix needs to be fetched from the prompt cache.

    A shorter system prefix is fetched all the same: a client is told whether the prefix was
    resident.
    """
    return min(system_prefix or WORTH_FETCHING, WORTH_FETCHING)


def has_prefill_slot(readers: Listed[Sequence]) -> bool:
    """Return True if another sequence may read beside these."""
    return len(readers) < READERS


def can_start_prefill(
    sequence: Sequence, readers: Listed[Sequence], resident: Callable[[], int]
) -> bool:
    """Return True if a sequence has nothing to wait for, where there is a slot.

    `resident` returns, at some cost, how many of the sequence's tokens need not be read.
    """
    leader = sequence.prefix_leader
    if leader is not None and not leader.over and leader.read < sequence.shared_prefix:
        return False
    if sum(_left(reader) > LONG for reader in readers) < LONG_READERS:
        return True
    length = len(sequence.prompt.tokens)
    return length <= LONG or length - resident() <= LONG


def fits(new: Sequence, rows: Listed[Sequence], cost: KvCost, budget: int | None) -> bool:
    """Return True if the expected KV of these rows and of a new one is within `budget` bytes.

    None: no budget.
    """
    if budget is None:
        return True
    longest = max(row.expected_kv_tokens for row in (new, *rows))
    return cost.batch_nbytes(len(rows) + 1, longest) <= budget


def _left(sequence: Sequence) -> int:
    return len(sequence.prompt.tokens) - sequence.read
