"""One request's entries: in the ledgers while it runs, in traffic and log at its end.

They are opened when the body has arrived. The ledgers, which `/health` shows, only hear of it once
it is known to be well formed and for whom. Everything is closed exactly once, whoever ended it; the
log says nothing of what was asked and answered. [front]
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mlx_worker.api.metrics.counters import RequestLabels
from mlx_worker.api.middleware.auth import key_name
from mlx_worker.api.middleware.errors import status_of
from mlx_worker.api.middleware.request_ids import request_id, session_id
from mlx_worker.errors import (
    ChildLost,
    InferenceError,
    InvalidRequest,
    PoisonedRequest,
    WorkerError,
)
from mlx_worker.logs import Entry

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import web

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.dialects.base import Usage
    from mlx_worker.api.metrics.counters import Outcome
    from mlx_worker.health import RequestStats
    from mlx_worker.supervisor.node import Served
    from mlx_worker.supervisor.requests.generation import Generation
    from mlx_worker.wire.messages import Started

log = logging.getLogger(__name__)


def outcome_of(error: WorkerError | None) -> Outcome:
    """A request's end in a word. What was refused was not tried: no failure of the model.

    Nor is an answer that ended because its weights were replaced: the model that runs now serves.
    """
    match error:
        case None:
            return "success"
        case InvalidRequest():
            return "client_error"
        case ChildLost() | PoisonedRequest() | InferenceError():
            return "failed"
        case _:
            return "failed" if type(error) is WorkerError else "refused"


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What is known of a request at its end; moments are on `time.perf_counter`.

    `accepted` is when it was known to be well formed and for whom, `status` what its client was
    told (None: it left before), `error` a code, "" where nothing went wrong.
    """

    request: web.Request
    dialect: str
    model: str
    outcome: Outcome
    error: str
    status: int | None
    read: Usage | None
    generations: list[Generation]
    began: float
    accepted: float | None
    ended: float


class RequestAccounting:
    """One request's entries; a context, whose end is the request's."""

    def __init__(self, request: web.Request, context: AppContext, dialect: str) -> None:
        self._request = request
        self._context = context
        self._dialect = dialect
        self._started_at = time.perf_counter()
        self._accepted: float | None = None
        self._model = ""
        self._stats: tuple[RequestStats, ...] = ()
        self._outcome: Outcome = "cancelled"
        self._error = ""
        self._warnings: list[str] = []
        self._status: int | None = None
        self._read: Usage | None = None
        self._cache_hit: bool | None = None
        self._generations: list[Generation] = []

    # --- what happens to it ---

    def opened(self, served: Served) -> None:
        """It is well formed, and for this model."""
        self._accepted = time.perf_counter()
        self._model = served.config.id
        self._stats = (self._context.model_stats[self._model], self._context.node_stats)
        for stats in self._stats:
            stats.request_started()

    def warned(self, warnings: list[str]) -> None:
        """Record what of the request was left out."""
        self._warnings = warnings

    def taken_on(self, generations: list[Generation]) -> None:
        """Its choices have places."""
        self._generations = generations

    def began(self, started: Started, read: Usage) -> None:
        """Its choices are under way; `started` is the first one's, `read` what all of them read."""
        self._read, self._cache_hit = read, started.cache_hit
        for stats in self._stats:
            if started.cache_hit:
                stats.record_hit()
            else:
                stats.record_miss(started.miss or "no system prompt")
        metrics = self._context.request_metrics.by_model[self._model]
        metrics.prompt_tokens += read.prompt
        metrics.cached_tokens += read.cached

    def answered(self, status: int) -> None:
        """Its status is sent."""
        self._status = status

    def ended(self, error: WorkerError | None) -> None:
        """What came of it."""
        self._outcome = outcome_of(error)
        self._error = "" if error is None else error.code

    # --- its end ---

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            known = error if isinstance(error, WorkerError) else WorkerError("unforeseen")
            self.ended(known)
            self._status = self._status or status_of(self._request, known)
        self._close(time.perf_counter())

    def _close(self, now: float) -> None:
        took = now - self._started_at
        for stats in self._stats:
            stats.request_ended()
            if self._outcome in ("success", "failed"):
                stats.record(self._outcome == "success", took * 1000)
        labels = RequestLabels(self._model, self._dialect, self._outcome, self._error)
        self._context.request_metrics.requests[labels] += 1
        first = self._first_token()
        if self._stats:
            metrics = self._context.request_metrics.by_model[self._model]
            if self._outcome == "success":
                metrics.duration.observe(took)
            if first is not None:
                metrics.first_token.observe(first)
        self._log(first, took)
        if self._context.tracer is not None:
            self._context.tracer.record(self._record(now))

    def _record(self, now: float) -> RequestRecord:
        return RequestRecord(
            request=self._request,
            dialect=self._dialect,
            model=self._model,
            outcome=self._outcome,
            error=self._error,
            status=self._status,
            read=self._read,
            generations=self._generations,
            began=self._started_at,
            accepted=self._accepted,
            ended=now,
        )

    def _first_token(self) -> float | None:
        """Seconds until any choice had one."""
        times = [at for it in self._generations if (at := it.first_token_at) is not None]
        return min(times) - self._started_at if times else None

    def _log(self, first: float | None, took: float) -> None:
        read = self._read
        entry = Entry(
            "request",
            request_id=request_id(self._request),
            session_id=session_id(self._request),
            key=key_name(self._request),
            path=self._request.path,
            dialect=self._dialect,
            model=self._model,
            status=self._status,
            outcome=self._outcome,
            error=self._error,
            warnings="; ".join(self._warnings),
            cache_hit=self._cache_hit,
            prompt_tokens=read.prompt if read else None,
            cached_tokens=read.cached if read else None,
            completion_tokens=sum(len(it.tokens) for it in self._generations),
            ttft_ms=None if first is None else round(first * 1000, 1),
            total_ms=round(took * 1000, 1),
        )
        log.info(entry)
