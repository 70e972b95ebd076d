"""One row of the engine, from its admission to its last message, and the table of rows. [child]"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_worker.engine.output.text_stream import TextStream
    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.engine.prompt_scores import PromptScorer
    from mlx_worker.engine.sampling import RowSampler
    from mlx_worker.engine.structured.constraint import Constraint

WAITING = -1

AHEAD = 512
"""Tokens that an answer without a limit is expected to grow by."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way: waiting, reading its prompt, or decoding. Counts are in tokens.

    `text` None: nothing is generated, the head is to be warmed. At most `max_tokens` come after its
    admission: as many as its client asked for, or, if it `fills_context`, all that the context
    leaves. `bounded`: memory is kept free for all of them.
    The tokens in `ends` end it.
    `replayed` at the end of `prompt.tokens` were said before by a former child, and count in
    `produced`. `prefix_leader` is an earlier sequence whose reading will spare this one
    `shared_prefix` tokens.
    """

    id: int
    prompt: Prompt
    text: TextStream | None
    max_tokens: int = 1
    bounded: bool = True
    fills_context: bool = False
    logprobs: int | None = None
    in_session: bool = False
    replayed: int = 0
    draw: RowSampler | None = None
    scorer: PromptScorer | None = None
    constraint: Constraint | None = None
    ends: frozenset[int] = frozenset()
    processors: list[Any] = field(default_factory=list)
    uid: int = WAITING
    cached: int = 0
    read: int = 0
    stored_tokens: int = 0
    segment_ends: list[int] = field(default_factory=list)
    produced: int = 0
    over: bool = False
    prefix_leader: Sequence | None = None
    shared_prefix: int = 0

    @property
    def waiting(self) -> bool:
        """Not in the batch yet."""
        return self.uid == WAITING

    @property
    def reading(self) -> bool:
        """In the batch, its prompt not read to the end, of which the last token is decoded."""
        return not self.waiting and not self.over and self.read < len(self.prompt.tokens) - 1

    @property
    def expected_kv_tokens(self) -> int:
        """Tokens it will have KV of, as far as can be known.

        Few that are not bounded come near their end: they are counted as they go.
        """
        ahead = self.max_tokens
        if not self.bounded:
            ahead = min(ahead, self.produced - self.replayed + AHEAD)
        return len(self.prompt.tokens) + ahead

    @property
    def system_prefix_is_new(self) -> bool:
        """Its system prompt was not resident."""
        return self.cached < self.prompt.system_prefix


class SequenceTable:
    """The unfinished sequences of one engine, by request id and by the batch's own number."""

    def __init__(self) -> None:
        self.by_id: dict[int, Sequence] = {}
        self.by_uid: dict[int, Sequence] = {}
        self.waiting: list[Sequence] = []
        """Not in the batch yet, in the order of their arrival."""

    def add(self, sequence: Sequence) -> None:
        """Add a sequence behind those that wait."""
        self.by_id[sequence.id] = sequence
        self.waiting.append(sequence)

    def enter_batch(self, sequence: Sequence, uid: int) -> None:
        """Record the batch's number of a sequence."""
        sequence.uid = uid
        self.by_uid[uid] = sequence

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it stands; the batch is told by the caller."""
        sequence.over = True
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        self.by_id.pop(sequence.id, None)
        self.by_uid.pop(sequence.uid, None)

    def readers(self) -> list[Sequence]:
        """Return the sequences that read their prompts."""
        return [sequence for sequence in self.by_uid.values() if sequence.reading]
