"""Who may begin to read its prompt, and how much is read between two decode steps.

Three promises. Running streams keep their pace: while anybody decodes, all readers together get
one chunk a step, no larger than what is read in the pause that the configuration allows. A short
prompt is not stuck behind long ones: they may take only half of the reading rows. What several
prompts share is read once: whoever comes later waits until an earlier one has read it. Pure:
sequences in, decisions out. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.engine.prefix import WORTH_FETCHING, begins_alike, common_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Sequence as Listed

    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.engine.sequence import Sequence
    from mlx_worker.wire.kv_cost import KvCost

READERS = 8
"""Prompts read side by side."""

LONG = 512
"""Tokens left to read from which a prompt is a long one."""

LONG_READERS = READERS // 2

SMALLEST_CHUNK = 16
LARGEST_CHUNK = 2048
"""Prompt tokens, of all readers together, between two steps."""

FIRST_CHUNK = 64
"""The same beside decoding rows, before it is known how fast this model reads."""

ALONE = 8
"""How many times longer a chunk may take while nobody decodes: newcomers and cancels wait for it,
but no stream does."""

PAUSE = 0.1
"""Seconds that reading may hold decoding up between two steps, unless somebody says otherwise."""

BLOCK = 256
"""Tokens by which mlx_lm's KV caches grow."""

WORTH_WAITING = 64
"""Shared tokens below which reading them twice is cheaper than waiting."""


class ChunkSizer:
    """How much may be read in a `pause` of so many seconds, by what reading took so far.

    In powers of two: a device likes few shapes, and the same prompt is mostly cut the same way.
    """

    def __init__(self, pause: float = PAUSE) -> None:
        self._pause = pause
        self._rate: float | None = None

    def record(self, tokens: int, seconds: float) -> None:
        """So many tokens were read in so many seconds."""
        if tokens and seconds > 0:
            rate = tokens / seconds
            self._rate = rate if self._rate is None else (self._rate + rate) / 2

    def chunk_size(
        self, readers: Listed[Sequence], *, decoding: bool, most: int = LARGEST_CHUNK
    ) -> int:
        """Tokens that each reader reads next, `most` of them at most, but for a few."""
        together = self._together(self._pause if decoding else self._pause * ALONE, decoding)
        each = min(most, together // max(1, len(readers)))
        return chunk_past_segment_ends(max(SMALLEST_CHUNK, each), readers)

    def _together(self, seconds: float, decoding: bool) -> int:
        if self._rate is None:
            return FIRST_CHUNK if decoding else LARGEST_CHUNK
        fitting = max(1, int(self._rate * seconds))
        return min(LARGEST_CHUNK, 1 << (fitting.bit_length() - 1))


def chunk_past_segment_ends(size: int, readers: Listed[Sequence]) -> int:
    """A chunk at least this long that leaves nobody one token before the end of a segment.

    Where a sliding window is full, mlx_lm 0.32.2 masks what follows a chunk of one token wrongly
    for padded rows (`BatchRotatingKVCache.make_mask` takes the place in the ring for its width).
    """
    left = {cut - reader.read for reader in readers for cut in reader.segment_ends}
    while size + 1 in left:
        size += 1
    return size


def choose_segment_ends(prompt: Prompt, cached: int, *, every_segment: bool) -> list[int]:
    """Where reading stops for a moment, so that what is read up to there can be kept.

    `every_segment`: else only the end of the head, because the KV can be cut later. Never one
    token after the last: see `chunk_past_segment_ends`.
    """
    chosen: list[int] = []
    last = cached
    for end in prompt.all_segment_ends if every_segment else [prompt.system_prefix]:
        if end - last > 1:
            chosen.append(end)
            last = end
    return chosen


def find_prefix_leader(new: Sequence, others: Iterable[Sequence], *, any_length: bool) -> None:
    """Let `new` wait for the earlier sequence with which it shares most, if that is worth it.

    `any_length`: the model's KV can be cut anywhere; else only whole segments are of use.
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


def min_prefix_to_reuse(head: int) -> int:
    """Tokens that a resident prefix must have to be fetched.

    A shorter head is fetched all the same: a client is told whether its system prompt was resident.
    """
    return min(head or WORTH_FETCHING, WORTH_FETCHING)


def has_prefill_slot(readers: Listed[Sequence]) -> bool:
    """May anybody else read beside these?"""
    return len(readers) < READERS


def can_start_prefill(
    sequence: Sequence, readers: Listed[Sequence], resident: Callable[[], int]
) -> bool:
    """Is there nothing for it to wait for, where there is room?

    `resident` tells, at some cost, how many of its tokens need not be read.
    """
    leader = sequence.prefix_leader
    if leader is not None and not leader.over and leader.read < sequence.shared_prefix:
        return False
    if sum(_left(it) > LONG for it in readers) < LONG_READERS:
        return True
    length = len(sequence.prompt.tokens)
    return length <= LONG or length - resident() <= LONG


def fits(new: Sequence, rows: Listed[Sequence], cost: KvCost, budget: int | None) -> bool:
    """Does the KV of these rows and a new one fit so many bytes, by what is foreseen of them?

    mlx_lm pads a batch to its longest row, and grows it in blocks. None: there is no budget.
    """
    if budget is None:
        return True
    longest = max(it.expected_kv_tokens for it in (new, *rows))
    return (len(rows) + 1) * cost.nbytes(-(-longest // BLOCK) * BLOCK) <= budget


def _left(sequence: Sequence) -> int:
    return len(sequence.prompt.tokens) - sequence.read
