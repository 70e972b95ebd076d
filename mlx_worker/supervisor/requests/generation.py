"""One request's life across the processes that work on it: filled row by row, ended exactly once.

A generation keeps what the next process needs to continue where a process died: the request with
its seed, and the token ids that its client has. The reader gets the output from `output`.

[front]
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mlx_worker import errors
from mlx_worker.supervisor.requests.disk_suspicion import MOST_OF_A_REQUEST, SuspectedRead
from mlx_worker.supervisor.requests.output_buffer import OutputBuffer
from mlx_worker.wire.messages import Generate, PrefillProgress, RequestFailed, Started
from mlx_worker.wire.output import Done, FinishReason, PromptScores, RowOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx_worker.supervisor.fingerprint import Identity
    from mlx_worker.supervisor.process.connection import ResponseMessage
    from mlx_worker.supervisor.process.pause import Handle
    from mlx_worker.wire.request import ChatRequest


RETRY_AFTER_UNAVAILABLE: Final = 1.0
"""Seconds until the next try where a child says `unavailable`: the lack of a moment."""


def as_error(failed: RequestFailed) -> errors.WorkerError:
    """Return the error that a child names in a message.

    The message carries no time of the next try: the front decides when a refusal may pass.
    """
    kind = errors.error_class(failed.code)
    retry_after = RETRY_AFTER_UNAVAILABLE if kind is errors.Unavailable else None
    error = kind(failed.message, param=failed.param, retry_after=retry_after)
    if isinstance(error, errors.ContextLengthExceeded):
        error.tokens, error.context = failed.prompt_tokens, failed.context
    return error


@dataclass(frozen=True, slots=True)
class FinishInfo:
    """How a generation ended: the client's finish reason, and the generated tokens.

    `stop_string` is the stop string that ended it, "" for none. `reasoning_tokens` of the
    `completion_tokens` were reasoning. `context_full`: the context ended the answer, not a limit
    of the request. `loop_period` is the number of tokens whose repetition ended it, 0 where none
    did. The last two count tokens that were drafted by the request's prediction.
    """

    finish: FinishReason
    completion_tokens: int
    stop_string: str = ""
    reasoning_tokens: int = 0
    context_full: bool = False
    loop_period: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CrashRecord:
    """The end of a process under a generation.

    `at` is on `time.perf_counter`; `tokens` is the number of tokens that had been generated.
    """

    at: float
    tokens: int


def never() -> bool:
    """Return False: the client does not know that its request waits."""
    return False


class GenerationOwner(Protocol):
    """The dispatcher, which hands a generation to one process, and to the next one."""

    def process_lost(self, generation: Generation, why: str) -> None:
        """Handle the end of the process that had the generation."""

    def first_token_after_resume(self, generation: Generation, seconds: float) -> None:
        """Handle the first token since the process was lost, that many seconds ago."""

    def client_disconnected(self, generation: Generation) -> None:
        """Handle that the reader needs no more output."""

    def abort(self, generation: Generation, error: errors.WorkerError) -> None:
        """Free the row of a generation that has not ended, and fail it."""

    def generation_ended(self, generation: Generation) -> None:
        """Handle the end of the generation, once."""


class Generation:
    """A response handler on one side, a source of output on the other.

    `is_patient` returns True once the client has been told that its request waits: the wait for a
    model that loads then goes on as long as loading does.

    `crashes` counts the processes that died with the generation in work; `lost_by` says how the
    last of them ended, "" for none; `disk_crashes` of them had read KV from disk shortly before.
    `output` is what the reader has not taken yet. `keepalive_interval` is in seconds. `request_id`
    is the name in the log. `first_token_at`, `ended_at` and `handed_over` (a moment for each
    process) are on `time.perf_counter`. `identity` is of the process that has it, or had it last.
    The end cancels the timer `deadline`.
    """

    def __init__(
        self,
        request: ChatRequest,
        session: str,
        owner: GenerationOwner,
        *,
        keepalive_interval: float,
        request_id: str = "",
        is_patient: Callable[[], bool] = never,
    ) -> None:
        self.request = request
        self.session = session
        self.request_id = request_id
        self.is_patient = is_patient
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.handed_over: list[float] = []
        self.crash_records: list[CrashRecord] = []
        self.tokens: list[int] = []
        self.crashes = 0
        self.disk_crashes = 0
        self.identity: Identity | None = None
        self.lost_by = ""
        self.is_cancelled = False
        self.has_ended = False
        self.finish_info: FinishInfo | None = None
        self.deadline: Handle | None = None
        self.output = OutputBuffer(keepalive_interval)
        self._owner = owner
        self._error: errors.WorkerError | None = None
        self._reports = 0  # of prompt tokens read, and of bytes loaded
        self._ended = asyncio.Event()
        self._lost_at: float | None = None
        self._disk_read = SuspectedRead()
        self._awaits_token = True  # the first one, or the first one since a process was lost
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._started: asyncio.Future[Started] = self._loop.create_future()

    @property
    def age(self) -> float:
        """Return the seconds since the request was taken on."""
        return self._loop.time() - self._began

    # --- the connection's side ---

    def on_message(self, message: ResponseMessage) -> None:
        """Handle one message of the process; ignore messages after the end."""
        if self.has_ended:
            return
        match message:
            case RowOutput():
                self._on_row(message)
            case Started():
                self._read_from_disk(message.disk_records)
                # The client knows the figures of the first process; only those count.
                if not self._started.done():
                    self._started.set_result(message)
            case PrefillProgress():
                self._on_prefill(message)
            case PromptScores():
                self._reports += 1
                self.output.add_scores(message)
            case Done():
                self.finish_info = FinishInfo(
                    message.finish,
                    message.completion_tokens,
                    message.stop_string,
                    message.reasoning_tokens,
                    message.context_full,
                    message.loop_period,
                    message.accepted_prediction_tokens,
                    message.rejected_prediction_tokens,
                )
                message.add_spans_to(self.output.spans)  # to be drained with the end
                self._end()
            case RequestFailed():
                self.fail(as_error(message))
            case _:
                pass

    def on_connection_lost(self, why: str) -> None:
        """Tell the owner that the process is lost; after the end there is nothing to lose."""
        if not self.has_ended:
            self._owner.process_lost(self, why)

    # --- the owner's side ---

    def as_message(self, id_: int) -> Generate:
        """Return the message that has a process start or continue the generation, under this id."""
        first = self._started.result() if self.has_begun else None
        return Generate(
            id_,
            self.request,
            list(self.tokens),
            self.session,
            self.request_id,
            None if first is None else first.room,
            None if first is None else first.splices,
        )

    def on_process_lost(self, why: str) -> None:
        """Record the loss of the process: further output comes from another process."""
        now = time.perf_counter()
        self.lost_by = why
        self.crash_records.append(CrashRecord(now, len(self.tokens)))
        self._awaits_token = True
        self._disk_read = SuspectedRead()
        self.output.drop_partial_scores()
        if self._lost_at is None:
            self._lost_at = now

    def _on_prefill(self, message: PrefillProgress) -> None:
        if message.disk_records:
            self._read_from_disk(message.disk_records)
        self.on_progress()

    def _read_from_disk(self, records: Sequence[bytes]) -> None:
        self._disk_read = SuspectedRead(tuple(records[:MOST_OF_A_REQUEST]), self._loop.time())

    @property
    def disk_suspects(self) -> tuple[bytes, ...]:
        """Return the records on disk that may have ended the process, if the process has died."""
        return self._disk_read.suspects(self._loop.time(), awaits_token=self._awaits_token)

    @property
    def has_begun(self) -> bool:
        """True if a process has begun the answer: its client may know of which weights."""
        return self._started.done() and not self._started.exception()

    @property
    def prefill(self) -> tuple[int, float] | None:
        """Return the prompt tokens that were computed, and the seconds until the first token.

        The seconds begin when a process gets the request. None without a first token, where a crash
        came before it, and where KV was read from disk: the seconds are not those of the model.
        """
        if self.first_token_at is None or any(not crash.tokens for crash in self.crash_records):
            return None
        started = self._started.result()
        if started.disk_tokens:
            return None
        computed = started.prompt_tokens - started.cached_tokens
        return computed, self.first_token_at - self.handed_over[0]

    @property
    def progress(self) -> int:
        """Return a count that rises with each token, and with each report of work before one."""
        return self._reports + len(self.tokens)

    @property
    def kv_tokens(self) -> int:
        """Return the tokens of which a child has KV, by what it has reported."""
        begun = self._started.done() and not self._error
        return self._started.result().prompt_tokens + len(self.tokens) if begun else 0

    def fail(self, error: errors.WorkerError) -> None:
        """End the generation with an error."""
        self._error = error
        self._end()

    def end_cancelled(self) -> None:
        """End a generation whose client has left."""
        self.finish_info = FinishInfo("cancelled", len(self.tokens))
        self._end()

    @property
    def is_resuming(self) -> bool:
        """True from the loss of a process until the next process has sent a token."""
        return self._lost_at is not None and not self.has_ended

    def on_progress(self) -> None:
        """Count progress; send the reader a keepalive, unless the reader has had output lately."""
        self._reports += 1
        self.output.keep_alive()

    # --- inside ---

    def _on_token(self) -> None:
        """Note the first token, and the first one since a process was lost."""
        now = time.perf_counter()
        self._awaits_token = False
        if self.first_token_at is None:
            self.first_token_at = now
        if self._lost_at is not None:
            self._owner.first_token_after_resume(self, now - self._lost_at)
            self._lost_at = None

    def _on_row(self, row: RowOutput) -> None:
        if self._awaits_token:
            self._on_token()
        self.tokens += row.tokens
        self.output.logprobs += row.logprobs
        row.add_spans_to(self.output.spans)
        self.output.announce()

    def _end(self) -> None:
        self.has_ended = True
        self.ended_at = time.perf_counter()
        self._ended.set()
        self.output.end()
        if self.deadline is not None:
            self.deadline.cancel()
        if self._error is not None and not self._started.done():
            self._started.set_exception(self._error)
            self._started.exception()  # there may be no reader that awaits it
        self._owner.generation_ended(self)

    # --- the reader's side ---

    async def started(self) -> Started:
        """Wait until a child has admitted the request. Raises the refusal if none does."""
        return await asyncio.shield(self._started)

    async def wait_finished(self) -> None:
        """Wait for the end. Raises the error; output before the error can be drained."""
        await self._ended.wait()
        self.raise_for_error()

    def raise_for_error(self) -> None:
        """Raise the error that ended the generation, if any."""
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Free the row: the client has left, or needs no more. Do nothing after the end."""
        if not self.has_ended:
            self.is_cancelled = True
            self._owner.client_disconnected(self)

    def abort(self, error: errors.WorkerError) -> None:
        """Free the row and end the generation with an error. Do nothing after the end."""
        if not self.has_ended:
            self._owner.abort(self, error)
