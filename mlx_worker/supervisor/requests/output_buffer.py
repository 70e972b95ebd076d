"""The output of one generation that its reader has not taken yet, and the reader's subscription.

The reader is called in the connection's own callback, with no task between a token and its socket.
`drain` returns everything since the last call: a slow reader sends many tokens in one write, and a
reader of whole answers drains once.

[front]
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, cast

import msgspec

from mlx_worker.wire.output import PromptScores, ReasoningText, Span, TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


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


def _ignore() -> None:
    """Do nothing: no reader has subscribed yet."""


class OutputBuffer:
    """Collects output until the reader drains it, so that a slow reader gets fewer, larger deltas.

    `spans` and `logprobs` are filled by the generation, which then calls `announce`.
    `keepalive_interval` is in seconds.
    """

    def __init__(self, keepalive_interval: float) -> None:
        self.spans: list[Span] = []
        self.logprobs: list[TokenLogprobs] = []
        self._scores: Scores | None = None
        self._score_parts: list[PromptScores] = []
        self._is_scored = False
        self._keepalive = False
        self._keepalive_interval = keepalive_interval
        self._notify: Callable[[], None] = _ignore
        self._has_ended = False
        self._loop = asyncio.get_running_loop()
        self._drained_at = self._loop.time()

    # --- the generation's side ---

    @property
    def has_output(self) -> bool:
        """True if there is something to drain, a keepalive too."""
        return bool(self.spans or self.logprobs or self._scores or self._keepalive)

    def announce(self) -> None:
        """Tell the reader of output that was added; of work alone if there is none."""
        if self.has_output:
            self._notify()
        else:  # a call or a character that is not complete: the model works all the same
            self.keep_alive()

    def keep_alive(self) -> None:
        """Send the reader a keepalive, unless the reader has had output lately."""
        if self._loop.time() - self._drained_at >= self._keepalive_interval:
            self._keepalive = True
            self._notify()

    def add_scores(self, part: PromptScores) -> None:
        """Add scores of the prompt, which the reader gets once they are complete.

        The scores of a later process are the same, and are ignored.
        """
        if self._is_scored:
            return
        self._score_parts.append(part)
        if part.is_last:
            self._is_scored = True
            self._scores, self._score_parts = Scores.of(self._score_parts), []
            self._notify()

    def drop_partial_scores(self) -> None:
        """Drop scores that are incomplete: the next process may split them in other places."""
        self._score_parts = []

    def end(self) -> None:
        """Tell the reader that the generation has ended."""
        self._has_ended = True
        self._notify()

    # --- the reader's side ---

    def subscribe(self, notify: Callable[[], None]) -> None:
        """Have `notify` called whenever there is output to drain, and at the end.

        It runs in the connection's callback: it must not block, and not raise.
        """
        self._notify = notify
        if self.has_output or self._has_ended:
            notify()

    def drain(self) -> OutputDelta | None:
        """Return the output since the last call; None if there is none."""
        if not self.has_output:
            return None
        delta = delta_of(self.spans, self.logprobs)
        if self._scores is not None:
            delta = msgspec.structs.replace(delta, scores=self._scores)
        self.spans, self.logprobs, self._scores = [], [], None
        self._keepalive = False
        self._drained_at = self._loop.time()
        return delta
