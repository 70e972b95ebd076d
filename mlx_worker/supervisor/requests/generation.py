"""One request's life, across the processes that work on it: heard row by row, ended exactly once.

It keeps what the next process needs to go on where this one died: the request with its seed, and
the token ids its client has. A reader is called in the link's own callback, with no task between a
token and its socket; `take` hands over everything that came since, so that a reader who lags sends
many tokens in one write, and one who wants the whole is never called before the end. [front]
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from mlx_worker import errors
from mlx_worker.wire.messages import PrefillProgress, RequestFailed, Started
from mlx_worker.wire.output import (
    Done,
    FinishReason,
    PromptScores,
    ReasoningText,
    RowOutput,
    Span,
    TokenLogprobs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlx_worker.supervisor.fingerprint import Identity
    from mlx_worker.supervisor.process.connection import Told
    from mlx_worker.supervisor.process.pause import Handle
    from mlx_worker.wire.request import ChatRequest


def as_error(failed: RequestFailed) -> errors.WorkerError:
    """A child's `Failed` as the error it names."""
    kind = errors.error_class(failed.code)
    error = kind(failed.message, param=failed.param)
    if isinstance(error, errors.ContextLengthExceeded):
        error.tokens, error.context = failed.prompt_tokens, failed.context
    return error


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended: the client's finish reason and what was generated, in tokens.

    `stop_string` is the one that ended it, "" where none did; `reasoning_tokens` are those of
    `completion_tokens` that were said while it reasoned. `context_full`: the context ended the
    answer, not a limit that was asked for.
    """

    finish: FinishReason
    completion_tokens: int
    stop_string: str = ""
    reasoning_tokens: int = 0
    context_full: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """A process ended with it: when, on `time.perf_counter`, and how many tokens it had by then."""

    at: float
    tokens: int


class Scores(msgspec.Struct, frozen=True):
    """All log-probabilities of a prompt's tokens, as `wire.output.PromptScores` has them."""

    echoed: list[bytes]
    listed: bytes

    @classmethod
    def of(cls, told: list[PromptScores]) -> Scores:
        """Return the stretches that a child told, joined."""
        lists = zip(*(it.echoed for it in told), strict=True)
        return cls([_joined(stretches) for stretches in lists], _joined(it.listed for it in told))


def _joined(stretches: Iterable[bytes]) -> bytes:
    return b",".join(filter(None, stretches))


class Piece(msgspec.Struct, frozen=True):
    """What came since the last time, in order: spans, then content.

    `logprobs` has an entry a token where they were asked for; `scores` of the prompt come once. One
    with nothing in it is a sign of life: the child makes progress, but has nothing to say.
    """

    text: str
    logprobs: list[TokenLogprobs]
    spans: list[Span] = []
    scores: Scores | None = None

    @property
    def is_sign(self) -> bool:
        """Is there nothing in it?"""
        return not (self.text or self.spans or self.logprobs or self.scores)

    @property
    def said(self) -> list[Span]:
        """All of it as spans."""
        return [*self.spans, self.text] if self.text else self.spans


def piece_of(spans: list[Span], logprobs: list[TokenLogprobs]) -> Piece:
    """Neighbours of one kind joined, and the content that comes last set apart."""
    if len(spans) == 1 and isinstance(spans[0], str):  # by far the most: one token's text
        return Piece(spans[0], logprobs)
    joined: list[Span] = []
    for kind, run in itertools.groupby(spans, type):
        if kind is str:
            joined.append("".join(cast("Iterator[str]", run)))
        elif kind is ReasoningText:
            joined.append(
                ReasoningText("".join(it.text for it in cast("Iterator[ReasoningText]", run)))
            )
        else:
            joined += run
    last = joined.pop() if joined and isinstance(joined[-1], str) else ""
    return Piece(cast("str", last), logprobs, joined)


def _nobody() -> None:
    """Nobody reads yet."""


class Keeper(Protocol):
    """Whoever hands a generation to a child, and to the next one."""

    def lost(self, generation: Generation, why: str) -> None:
        """The process that had it is gone."""

    def spoke_again(self, generation: Generation, after: float) -> None:
        """Its first token since it was lost, so many seconds ago."""

    def left(self, generation: Generation) -> None:
        """Its reader wants no more of it."""

    def overdue(self, generation: Generation, error: errors.WorkerError) -> None:
        """Its time is up: nobody is to work on it any more."""

    def ended(self, generation: Generation) -> None:
        """It has ended, once."""


class Generation:
    """A listener of the link on one side, a source of text on the other.

    `crashes` counts the processes that died with it in their hands, `lost_by` says what happened to
    the last that had it, in words; "" where none was lost. Seconds in `sign_every`. `request_id` is
    its name in the log. `first_token_at` and `ended_at` are on `time.perf_counter`, as are the
    moments in `handed_over`, one a process that it was given to. `identity` is of the process that
    has it, or had it last. `deadline` is a timer that the end cancels.
    """

    def __init__(
        self,
        request: ChatRequest,
        session: str,
        keeper: Keeper,
        *,
        sign_every: float,
        request_id: str = "",
    ) -> None:
        self.request = request
        self.session = session
        self.request_id = request_id
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.handed_over: list[float] = []
        self.losses: list[Loss] = []
        self.tokens: list[int] = []
        self.crashes = 0
        self.identity: Identity | None = None
        self.lost_by = ""
        self.has_left = False
        self.ending: Ending | None = None
        self._keeper = keeper
        self._sign_every = sign_every
        self._spans: list[Span] = []
        self._logprobs: list[TokenLogprobs] = []
        self._told_scores: list[PromptScores] = []
        self._scores: Scores | None = None
        self._is_scored = False
        self._sign = False
        self._error: errors.WorkerError | None = None
        self.over = False
        self._reader: Callable[[], None] = _nobody
        self._ended = asyncio.Event()
        self._lost_at: float | None = None
        self._is_silent = True  # it has said nothing yet, or nothing since it was lost
        self._loop = asyncio.get_running_loop()
        self._last_taken = self._began = self._loop.time()
        self._started: asyncio.Future[Started] = self._loop.create_future()
        self.deadline: Handle | None = None

    @property
    def age(self) -> float:
        """Seconds since it was taken on."""
        return self._loop.time() - self._began

    # --- the link's side ---

    def hear(self, message: Told) -> None:
        """Take in one message about this id; after the end there is nothing to take in."""
        if self.over:
            return
        match message:
            case RowOutput():
                self._hear_row(message)
            case Started():
                # The client knows the first; a later process only has other figures.
                if not self._started.done():
                    self._started.set_result(message)
            case PrefillProgress():
                self.progressed()
            case PromptScores():
                self._hear_scores(message)
            case Done():
                self.ending = Ending(
                    message.finish,
                    message.completion_tokens,
                    message.stop_string,
                    message.reasoning_tokens,
                    message.context_full,
                )
                message.add_spans_to(self._spans)  # to be taken with the end
                self._end()
            case RequestFailed():
                self.fail(as_error(message))
            case _:
                pass

    def on_connection_lost(self, why: str) -> None:
        """Hand the loss of the process to the keeper; after the end there is nothing to lose."""
        if not self.over:
            self._keeper.lost(self, why)

    # --- the keeper's side ---

    def lose(self, why: str) -> None:
        """The process that had it is gone: what comes next comes from another."""
        now = time.perf_counter()
        self.lost_by = why
        self.losses.append(Loss(now, len(self.tokens)))
        self._is_silent = True
        self._told_scores = []  # those of the next process may be cut in other places
        if self._lost_at is None:
            self._lost_at = now

    @property
    def has_begun(self) -> bool:
        """True if a process has begun the answer: its client may know of which weights."""
        return self._started.done() and not self._started.exception()

    @property
    def room(self) -> int | None:
        """Tokens that the first process allowed the answer; None where no process has begun."""
        return self._started.result().room if self.has_begun else None

    @property
    def kv_tokens(self) -> int:
        """Tokens that a child has KV of for it, as far as it has told."""
        begun = self._started.done() and not self._error
        return self._started.result().prompt_tokens + len(self.tokens) if begun else 0

    def fail(self, error: errors.WorkerError) -> None:
        """Nothing more will come, and this is why."""
        self._error = error
        self._end()

    def drop(self) -> None:
        """End it without a word: nobody listens."""
        self.ending = Ending("cancelled", len(self.tokens))
        self._end()

    def progressed(self) -> None:
        """The child is on its way to the next word: let the reader know, but not too often."""
        if self._loop.time() - self._last_taken >= self._sign_every:
            self._sign = True
            self._reader()

    # --- inside ---

    def _speaks(self) -> None:
        now = time.perf_counter()
        self._is_silent = False
        if self.first_token_at is None:
            self.first_token_at = now
        if self._lost_at is not None:
            self._keeper.spoke_again(self, now - self._lost_at)
            self._lost_at = None

    def _hear_row(self, row: RowOutput) -> None:
        if self._is_silent:
            self._speaks()
        self.tokens += row.tokens
        self._logprobs += row.logprobs
        row.add_spans_to(self._spans)
        if self._has_news:
            self._reader()

    def _hear_scores(self, told: PromptScores) -> None:
        """Collect the scores of the prompt; a process that goes on tells them again."""
        if self._is_scored:
            return
        self._told_scores.append(told)
        if told.is_last:
            self._is_scored = True
            self._scores, self._told_scores = Scores.of(self._told_scores), []
            self._reader()

    def _end(self) -> None:
        self.over = True
        self.ended_at = time.perf_counter()
        self._ended.set()
        self._reader()
        if self.deadline is not None:
            self.deadline.cancel()
        if self._error is not None and not self._started.done():
            self._started.set_exception(self._error)
            self._started.exception()  # whoever asks is told; nobody has to
        self._keeper.ended(self)

    # --- the reader's side ---

    async def started(self) -> Started:
        """Wait until the child has admitted it. Raises the refusal if it does not."""
        return await asyncio.shield(self._started)

    def attend(self, reader: Callable[[], None]) -> None:
        """Have it called whenever there is something to take, and at the end.

        It is called in the link's callback: it must not block, and not raise.
        """
        self._reader = reader
        if self._has_news or self.over:
            reader()

    def take(self) -> Piece | None:
        """What came since the last time; None where that is nothing."""
        if not self._has_news:
            return None
        piece = piece_of(self._spans, self._logprobs)
        if self._scores is not None:
            piece = msgspec.structs.replace(piece, scores=self._scores)
        self._spans, self._logprobs, self._scores = [], [], None
        self._sign = False
        self._last_taken = self._loop.time()
        return piece

    @property
    def _has_news(self) -> bool:
        return bool(self._spans or self._logprobs or self._scores or self._sign)

    async def heard_out(self) -> None:
        """Wait for the end. Raises what went wrong; what was said before it can be taken."""
        await self._ended.wait()
        self.check()

    def check(self) -> None:
        """Raises what it failed by, where it did."""
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """The client is gone or has had enough: free the row. Harmless after the end."""
        if not self.over:
            self.has_left = True
            self._keeper.left(self)
