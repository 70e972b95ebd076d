"""Account for one generation request: statistics while it runs; metrics, log and trace at its end.

Accounting begins when the body has arrived. The statistics that `/health` reports count the request
once it is known to be valid and for which model. Every request is closed exactly once, however it
ends. The log has no word of the request or of its response.

[front]
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Self

from mlx_worker.api.generation.request_log import log_request
from mlx_worker.api.metrics.counters import RequestLabels
from mlx_worker.api.middleware.errors import status_of
from mlx_worker.api.middleware.request_ids import request_id, session_given
from mlx_worker.api.request_record import RECORDER, RequestRecord
from mlx_worker.errors import (
    InvalidRequest,
    QueueFull,
    RequestCancelled,
    RequestTimedOut,
    Unavailable,
    WeightsChanged,
    WorkerError,
)

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import web

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.dialects.base import Usage
    from mlx_worker.api.metrics.counters import ModelMetrics
    from mlx_worker.api.request_record import Outcome
    from mlx_worker.health import RequestStats
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.wire.messages import Started
    from mlx_worker.wire.parting import Parting


def outcome_of(error: WorkerError | None) -> Outcome:
    """Return the outcome of a request in a word.

    A refused request was not tried: node or model took no work on. Any other error ended a request
    that was taken on.
    """
    match error:
        case None:
            return "success"
        case InvalidRequest():
            return "client_error"
        case RequestCancelled():
            return "cancelled"
        case Unavailable() | QueueFull():
            return "refused"
        case _:
            return "failed"


_NO_FAULT_OF_THE_MODEL: Final = frozenset({RequestTimedOut.code, WeightsChanged.code})
"""Failures after which the model can still serve: how much a client asks for, and a model whose
weights were replaced, say nothing of the next request."""


class RequestState(Enum):
    """How far a request has come; a request enters the states in this order."""

    RECEIVED = auto()
    """Its body has arrived."""
    ACCEPTED = auto()
    """It is valid, and its model is known."""
    QUEUED = auto()
    """Its choices have decode slots, or places in the queue."""
    STARTED = auto()
    """The model has begun every choice."""
    RESPONDING = auto()
    """Its status is sent; that of a stream may have been sent before (`respond_early`)."""
    FINISHED = auto()
    """Its outcome is known."""


class RequestAccounting:
    """Accounts for one request: a context that ends when the request does."""

    def __init__(self, request: web.Request, context: AppContext, dialect: str) -> None:
        self._request = request
        self._context = context
        self._dialect = dialect
        self._state = RequestState.RECEIVED
        self._began = time.perf_counter()
        self._accepted: float | None = None
        self._model = ""
        self._stats: tuple[RequestStats, ...] = ()
        self._outcome: Outcome = "cancelled"
        self._error = ""
        self._warnings: list[str] = []
        self._dropped_lines = 0
        self._status: int | None = None
        self._prompt: Usage | None = None
        self._cache_hit: bool | None = None
        self._generations: list[Generation] = []
        self._row_id = ""
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._cancelled_by = RequestCancelled("an operator has cancelled the request")

    # --- the states of the request ---

    def accept(self, model: ModelRuntime, warnings: list[str], dropped_lines: int = 0) -> None:
        """Count the request as one of its model; `warnings` say what of it was ignored.

        `dropped_lines` at the head of its system prompt were left out.
        """
        self._advance(RequestState.ACCEPTED)
        self._accepted = time.perf_counter()
        self._model = model.config.id
        self._warnings = warnings
        self._dropped_lines = dropped_lines
        self._stats = (self._context.model_stats[self._model], self._context.node_stats)
        for stats in self._stats:
            stats.request_started()

    def queue(self, generations: list[Generation]) -> None:
        """Note the generations of the request's choices."""
        self._advance(RequestState.QUEUED)
        self._generations = generations

    def start(self, started: Started, prompt: Usage) -> None:
        """Count the prompt; `started` is the first choice's, `prompt` counts all prompts."""
        self._advance(RequestState.STARTED)
        self._prompt, self._cache_hit = prompt, started.cache_hit
        for stats in self._stats:
            if started.cache_hit:
                stats.record_hit()
            else:
                stats.record_miss(started.miss or "no system prompt")
        metrics = self._context.request_metrics.by_model[self._model]
        metrics.add_prompt(prompt.prompt, prompt.cached, prompt.disk)
        if session_given(self._request) is not None:
            self._note_parting(metrics, prompt.parting)

    def _note_parting(self, metrics: ModelMetrics, parting: Parting | None) -> None:
        """Count a prompt of a session; None: no earlier prompt of the session is known."""
        if not metrics.add_parting(parting) or parting is None:
            return
        self._context.node.events.record(
            "prompt parted",
            self._model,
            request_id=request_id(self._request),
            part=parting.part,
            turn=parting.turn,
            role=parting.role,
            shared_tokens=parting.shared,
            lost_tokens=parting.lost,
        )

    def respond_early(self, status: int) -> None:
        """Note the status that was sent before the request has a slot, or before it has begun."""
        self._status = status

    def respond(self, status: int) -> None:
        """Note the status that was sent."""
        self._advance(RequestState.RESPONDING)
        self._status = status

    def finish(self, error: WorkerError | None = None) -> None:
        """Note the outcome of the response."""
        self._advance(RequestState.FINISHED)
        self._set_outcome(error)

    def _advance(self, state: RequestState) -> None:
        assert state.value == self._state.value + 1, f"{state} follows {self._state}"
        self._state = state

    def _set_outcome(self, error: WorkerError | None) -> None:
        self._outcome = outcome_of(error)
        self._error = "" if error is None else error.code

    # --- the table of requests ---

    def snapshot(self) -> RequestRecord:
        """Return what is known of the request now."""
        return self._record(time.perf_counter())

    def cancel(self, error: RequestCancelled | None = None) -> bool:
        """End the request with an error; return False if its output is complete.

        Without an error, an operator has cancelled the request. Until the request has generations,
        the wait of its task is interrupted.
        """
        self._cancelled_by = error or self._cancelled_by
        if not self._generations:
            if self._task is not None and not self._is_cancelled:
                self._is_cancelled = True
                self._task.cancel()
            return True
        running = [generation for generation in self._generations if not generation.has_ended]
        for generation in running:
            generation.abort(self._cancelled_by)
        return bool(running)

    def _has_cancelled(self, error: BaseException | None) -> bool:
        """Return True if this error is the interruption that `cancel` has caused."""
        if not (self._is_cancelled and isinstance(error, asyncio.CancelledError)):
            return False
        assert self._task is not None, "cancel has interrupted the task"
        return self._task.uncancel() == 0

    # --- the end of the request ---

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._row_id = self._context.request_table.begin(self._request, self)
        if (recorder := self._request.get(RECORDER)) is not None:
            recorder.on_begin(self)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        interruption = error if self._has_cancelled(error) else None
        error = self._cancelled_by if interruption else error
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            known = error if isinstance(error, WorkerError) else WorkerError("unexpected error")
            self._set_outcome(known)
            self._status = self._status or status_of(self._request, known)
        record = self._record(time.perf_counter())
        self._count(record)
        log_request(record)
        if self._context.tracer is not None:
            self._context.tracer.record(record)
        self._context.request_table.end(self._row_id, record)
        if (recorder := self._request.get(RECORDER)) is not None:
            recorder.on_end(record)
        if interruption is not None:
            assert error is not None, "the interruption has become an error"
            raise error from None

    def _record(self, now: float) -> RequestRecord:
        return RequestRecord(
            request=self._request,
            dialect=self._dialect,
            model=self._model,
            outcome=self._outcome,
            error=self._error,
            status=self._status,
            warnings=self._warnings,
            prompt=self._prompt,
            cache_hit=self._cache_hit,
            generations=self._generations,
            began=self._began,
            accepted=self._accepted,
            ended=now,
            dropped_lines=self._dropped_lines,
        )

    def _count(self, record: RequestRecord) -> None:
        for stats in self._stats:
            stats.request_ended()
            if _tells_of_the_model(record):
                stats.record(record.outcome == "success", record.seconds * 1000)
        labels = RequestLabels(record.model, record.dialect, record.outcome, record.error)
        self._context.request_metrics.requests[labels] += 1
        if record.accepted is None:
            return
        metrics = self._context.request_metrics.by_model[record.model]
        if record.outcome == "success":
            metrics.duration.observe(record.seconds)
        if (first_token := record.seconds_to_first_token) is not None:
            metrics.first_token.observe(first_token)
        for generation in record.generations:
            if (prefill := generation.prefill) is not None:
                metrics.add_prefill(*prefill)


def _tells_of_the_model(record: RequestRecord) -> bool:
    """Return True if the outcome counts in the status of the model and of the node."""
    if record.outcome == "failed":
        return record.error not in _NO_FAULT_OF_THE_MODEL
    return record.outcome == "success"
