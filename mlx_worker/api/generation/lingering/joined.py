"""Account for a request that has joined another: a log line and a trace of its own, no tokens.

The generation is counted once, with the request that began it.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from mlx_worker.api.generation.accounting import outcome_of
from mlx_worker.api.generation.request_log import log_request
from mlx_worker.api.middleware.errors import status_of
from mlx_worker.api.middleware.request_ids import request_id
from mlx_worker.api.request_record import RequestRecord
from mlx_worker.errors import WorkerError

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import web

    from mlx_worker.api.context import AppContext
    from mlx_worker.api.generation.lingering.recorded_request import RecordedRequest
    from mlx_worker.api.request_record import Outcome


class JoinAccounting:
    """Accounts for one request that reads the response of another: a context that ends with it."""

    def __init__(
        self, request: web.Request, context: AppContext, recorded: RecordedRequest
    ) -> None:
        self._request = request
        self._context = context
        self._recorded = recorded
        self._began = time.perf_counter()
        self._model = "" if recorded.live is None else recorded.live.snapshot().model

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        recording, first = self._recorded.recording, self._recorded.record
        outcome: Outcome = "cancelled"
        status, code = (recording.status if recording.is_stream else None), ""
        if error is None:
            status = recording.status
            outcome, code = ("success", "") if first is None else (first.outcome, first.error)
        elif isinstance(error, WorkerError):
            outcome, code = outcome_of(error), error.code
            status = status or status_of(self._request, error)
        record = RequestRecord(
            request=self._request,
            dialect=self._recorded.attempt.content.dialect,
            model=first.model if first is not None else self._model,
            outcome=outcome,
            error=code,
            status=status,
            warnings=[],
            prompt=None,
            cache_hit=None,
            generations=[],
            began=self._began,
            accepted=None,
            ended=time.perf_counter(),
            joined=request_id(self._recorded.request),
        )
        self._context.request_metrics.joined[record.model, record.dialect] += 1
        log_request(record)
        if self._context.tracer is not None:
            self._context.tracer.record(record)
