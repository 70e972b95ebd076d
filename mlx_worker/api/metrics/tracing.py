"""Send an OpenTelemetry trace of each generation request, after the request has ended.

Each request is a server span by the conventions for HTTP and generative AI. Its children are the
phases of the response as the client sees them, whatever the number of choices. Spans are made of
times that are recorded anyway, so no code on a token's path knows of traces. They have figures and
names, never words of the request. The library sends batches from a thread of its own. This module
is only imported where a collector is configured: the library is an extra.

[front]
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mlx_worker import __version__
from mlx_worker.api.middleware.paths import plain
from mlx_worker.api.middleware.request_ids import request_id, session_given
from mlx_worker.logs import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from aiohttp import web
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from mlx_worker.api.request_record import RequestRecord

log = logging.getLogger(__name__)

# The library's messages stay out of the node's log: they repeat with each batch and quote headers.
_library = logging.getLogger("opentelemetry")
_library.propagate = False
_library.addHandler(logging.NullHandler())

FLUSH_THREAD: Final = "flush-traces"
"""The name of the thread that gives the last spans to the collector."""

FLUSH_TIMEOUT: Final = 2.0
"""Seconds that a stopping node waits for the collector to accept the last spans."""

_PROPAGATOR = TraceContextTextMapPropagator()


class RequestTracer:
    """Sends traces to the collector at a base URL while the context is entered."""

    def __init__(self, endpoint: str) -> None:
        self._errors = _ExportErrorLog()
        self._exporter: SpanExporter = _ReportingExporter(
            f"{endpoint.rstrip('/')}/v1/traces", self._errors
        )
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("mlx_worker", __version__)

    async def __aenter__(self) -> Self:
        _library.addHandler(self._errors)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # A daemon thread: the library would wait longer than a node may take to stop.
        flush = threading.Thread(target=self._provider.shutdown, name=FLUSH_THREAD, daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, FLUSH_TIMEOUT)
        if flush.is_alive():
            self._errors.report(
                f"the collector did not accept the last spans within {FLUSH_TIMEOUT:g} s"
            )
            self._exporter.shutdown()  # no more retries
        _library.removeHandler(self._errors)

    def record(self, record: RequestRecord) -> None:
        """Record a request that has ended; the library's thread sends it later."""
        wall = _wall_clock()
        span = self._tracer.start_span(
            f"{record.request.method} {_route(record.request)}",
            context=_parent_context(record.request),
            kind=SpanKind.SERVER,
            attributes=dict(_attributes(record)),
            start_time=wall(record.began),
        )
        if not span.is_recording():
            return
        if _is_server_error(record):
            span.set_status(Status(StatusCode.ERROR))
        _add_crash_events(span, record, wall)
        children = set_span_in_context(span, Context())
        for name, began, ended in _phases(record):
            phase = self._tracer.start_span(name, context=children, start_time=wall(began))
            phase.end(wall(ended))
        span.end(wall(record.ended))


# --- one request ----------------------------------------------------------------------------


def _wall_clock() -> Callable[[float], int]:
    """Return a function from times on `time.perf_counter` to nanoseconds since the epoch."""
    offset = time.time_ns() - time.perf_counter_ns()
    return lambda moment: offset + int(moment * 1e9)


def _route(request: web.Request) -> str:
    """Return the endpoint's path, the same for any run of /v1 in front."""
    return f"/v1{plain(request)}"


def _parent_context(request: web.Request) -> Context:
    """Return the client's span where the request names a valid one; else an empty context."""
    given = {name: request.headers.getall(name, []) for name in _PROPAGATOR.fields}
    return _PROPAGATOR.extract(
        {name: values for name, values in given.items() if values}, Context()
    )


def _attributes(record: RequestRecord) -> Iterator[tuple[str, AttributeValue]]:
    request, prompt, generations = record.request, record.prompt, record.generations
    yield "http.request.method", request.method
    yield "http.route", _route(request)
    yield "url.path", request.path
    yield "url.scheme", request.scheme
    if record.status is not None:
        yield "http.response.status_code", record.status
    if record.error:
        yield "error.type", record.error
    yield "gen_ai.provider.name", "mlx_worker"
    yield "gen_ai.operation.name", _operation(record.dialect)
    if record.model:
        yield "gen_ai.request.model", record.model
    if len(generations) > 1:
        yield "gen_ai.request.choice.count", len(generations)
    if session := session_given(request):
        yield "gen_ai.conversation.id", session
    if prompt is not None:
        yield "gen_ai.usage.input_tokens", prompt.prompt
        yield "gen_ai.usage.cache_read.input_tokens", prompt.cached
        yield "gen_ai.usage.output_tokens", record.completion_tokens
        yield "mlx_worker.disk_tokens", prompt.disk
    reasons = [
        choice.finish_info.finish for choice in generations if choice.finish_info is not None
    ]
    if reasons:
        yield "gen_ai.response.finish_reasons", reasons
    yield "mlx_worker.dialect", record.dialect
    yield "mlx_worker.outcome", record.outcome
    yield "mlx_worker.request_id", request_id(request)
    if record.joined:
        yield "mlx_worker.joined", record.joined


def _operation(dialect: str) -> str:
    return "text_completion" if dialect == "completions" else "chat"


def _is_server_error(record: RequestRecord) -> bool:
    """Return True if the error is the server's: by HTTP's conventions a status 4xx is not.

    Nor is a client's error that came after the status of a stream.
    """
    is_client_error = record.outcome == "client_error" or 400 <= (record.status or 0) < 500  # noqa: PLR2004
    return bool(record.error) and not is_client_error


def _phases(record: RequestRecord) -> Iterator[tuple[str, float, float]]:
    """Yield (name, start, end) of the phases: in the queue, to the first token, to the last token.

    A request that failed or whose client left ends in the phase that it had reached.
    """
    if record.accepted is None:
        return
    generations, end = record.generations, record.ended
    submitted = min(
        (choice.handed_over[0] for choice in generations if choice.handed_over), default=None
    )
    first_token = min(
        (at for choice in generations if (at := choice.first_token_at) is not None), default=None
    )
    last_token = max((choice.ended_at or end for choice in generations), default=end)
    yield "queue", record.accepted, end if submitted is None else submitted
    if submitted is not None:
        yield "prefill", submitted, last_token if first_token is None else first_token
    if first_token is not None:
        yield "decode", first_token, last_token


def _add_crash_events(span: Span, record: RequestRecord, wall: Callable[[float], int]) -> None:
    """Add events for processes that ended, and for the processes that resumed the generation."""
    for choice in record.generations:
        for i, loss in enumerate(choice.crash_records, 1):
            tokens = {"mlx_worker.after_tokens": loss.tokens}
            span.add_event("mlx_worker.child_lost", tokens, wall(loss.at))
            if i < len(choice.handed_over):
                span.add_event("mlx_worker.resumed", tokens, wall(choice.handed_over[i]))


# --- the collector --------------------------------------------------------------------------


def _resource() -> Resource:
    """Return the name of the service, unless OpenTelemetry's own variables name another."""
    default = Resource.create({"service.name": "mlx-worker", "service.version": __version__})
    return default.merge(OTELResourceDetector().detect())


class _ExportErrorLog(logging.Handler):
    """Logs the first error of the library, and that the collector accepts spans again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._is_reported = False

    def emit(self, record: logging.LogRecord) -> None:
        """Report a message of the library; called on any thread, one at a time."""
        if record.name.startswith(("opentelemetry.exporter.", "opentelemetry.sdk.")):
            self.report(record.getMessage())

    def report(self, why: str) -> None:
        """Log that spans may be lost, unless that is logged already."""
        if not self._is_reported:
            self._is_reported = True
            log.warning(Entry("traces may be lost", why=why))

    def clear(self) -> None:
        """Log that the collector accepts spans again after an error."""
        if self._is_reported:
            self._is_reported = False
            log.info("the collector accepts traces again")


class _ReportingExporter(OTLPSpanExporter):
    """Exports as the library does, on the library's thread, and reports successes."""

    def __init__(self, url: str, errors: _ExportErrorLog) -> None:
        super().__init__(endpoint=url)
        self._errors = errors

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch of spans."""
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self._errors.clear()
        return result
