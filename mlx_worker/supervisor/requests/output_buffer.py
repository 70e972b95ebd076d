"""The output of one generation that its reader has not taken yet.

[front]
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

import msgspec

from mlx_worker.wire.output import PromptScores, ReasoningText, Span, TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Scores(msgspec.Struct, frozen=True):
    """All log-probabilities of a prompt's tokens, as `wire.output.PromptScores` has them."""

    echoed: list[bytes]
    listed: bytes

    @classmethod
    def of(cls, parts: list[PromptScores]) -> Scores:
        """Join the parts that a child has sent."""
        lists = zip(*(part.echoed for part in parts), strict=True)
        return cls([_joined(part) for part in lists], _joined(part.listed for part in parts))


def _joined(parts: Iterable[bytes]) -> bytes:
    return b",".join(filter(None, parts))


class OutputDelta(msgspec.Struct, frozen=True):
    """The output since the last one: spans in order, none of them empty.

    `logprobs` has an entry a token if the request asked for them; `scores` of the prompt come once.
    A delta without output is a keepalive: the child makes progress, but has no output yet.
    """

    spans: list[Span]
    logprobs: list[TokenLogprobs]
    scores: Scores | None = None

    @property
    def is_keepalive(self) -> bool:
        """True if there is no output in the delta."""
        return not (self.spans or self.logprobs or self.scores)

    @property
    def text(self) -> str:
        """Return the content among the spans."""
        return "".join(span for span in self.spans if isinstance(span, str))


def delta_of(spans: list[Span], logprobs: list[TokenLogprobs]) -> OutputDelta:
    """Return a delta in which neighbours of one kind are joined."""
    if len(spans) == 1:  # by far the most: one token's text
        return OutputDelta(spans, logprobs)
    joined: list[Span] = []
    for kind, run in itertools.groupby(spans, type):
        if kind is str:
            joined.append("".join(cast("Iterator[str]", run)))
        elif kind is ReasoningText:
            texts = (span.text for span in cast("Iterator[ReasoningText]", run))
            joined.append(ReasoningText("".join(texts)))
        else:
            joined += run
    return OutputDelta(joined, logprobs)


class OutputBuffer:
    """Collects output until the reader drains it, so that a slow reader gets fewer, larger deltas.

    `spans` and `logprobs` are filled by the generation.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.logprobs: list[TokenLogprobs] = []
        self._scores: Scores | None = None
        self._score_parts: list[PromptScores] = []
        self._is_scored = False
        self._keepalive = False

    @property
    def has_output(self) -> bool:
        """True if there is something to drain, a keepalive too."""
        return bool(self.spans or self.logprobs or self._scores or self._keepalive)

    def add_keepalive(self) -> None:
        """Have the next delta tell the reader that the child makes progress."""
        self._keepalive = True

    def add_scores(self, part: PromptScores) -> bool:
        """Add scores of the prompt; return True once they are complete.

        The scores of a later process are the same, and are ignored.
        """
        if self._is_scored:
            return False
        self._score_parts.append(part)
        if part.is_last:
            self._is_scored = True
            self._scores, self._score_parts = Scores.of(self._score_parts), []
        return part.is_last

    def drop_partial_scores(self) -> None:
        """Drop scores that are incomplete: the next process may split them in other places."""
        self._score_parts = []

    def drain(self) -> OutputDelta | None:
        """Return the output since the last call; None if there is none."""
        if not self.has_output:
            return None
        delta = delta_of(self.spans, self.logprobs)
        if self._scores is not None:
            delta = msgspec.structs.replace(delta, scores=self._scores)
        self.spans, self.logprobs, self._scores = [], [], None
        self._keepalive = False
        return delta
