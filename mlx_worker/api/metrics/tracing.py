"""OpenTelemetry traces: what became of a request, told once, after it has ended.

A server span a request, as wide as its line in the log, by the conventions for HTTP and generative
AI; beneath it the phases of its answer as the client sees it, whatever number of choices it has.
All of it is made of moments that were noted anyway, so nothing on a token's way knows of it, and of
figures and names alone, never of words. The library sends batches from a thread of its own. Only
imported where there is a collector: it is an extra. [front]
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

    from mlx_worker.api.generation.accounting import RequestRecord

log = logging.getLogger(__name__)

# Its own words are none of the node's log: they would come with every batch, and quote a header.
_library = logging.getLogger("opentelemetry")
_library.propagate = False
_library.addHandler(logging.NullHandler())

FLUSH_TIMEOUT: Final = 2.0
"""Seconds that a node which stops waits for the collector to take the last spans."""

_PROPAGATOR = TraceContextTextMapPropagator()


class RequestTracer:
    """Tells the collector at this base URL of requests; a context in which it can."""

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
        # A daemon: the library's own patience is longer than that of whoever stops a node.
        flush = threading.Thread(target=self._provider.shutdown, daemon=True)
        flush.start()
        await asyncio.to_thread(flush.join, FLUSH_TIMEOUT)
        if flush.is_alive():
            self._errors.report(f"the last ones were not taken within {FLUSH_TIMEOUT:g} s")
            self._exporter.shutdown()  # it tries no more
        _library.removeHandler(self._errors)

    def record(self, record: RequestRecord) -> None:
        """One request, after its last byte. Nothing is sent here, and nobody waits."""
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
    """From moments on `time.perf_counter` to nanoseconds since the epoch."""
    offset = time.time_ns() - time.perf_counter_ns()
    return lambda moment: offset + int(moment * 1e9)


def _route(request: web.Request) -> str:
    """The endpoint's one name, however many /v1 it was asked by."""
    return f"/v1{plain(request)}"


def _parent_context(request: web.Request) -> Context:
    """The caller's span where it names one that can be read; else nothing."""
    given = {name: request.headers.getall(name, []) for name in _PROPAGATOR.fields}
    return _PROPAGATOR.extract({name: it for name, it in given.items() if it}, Context())


def _attributes(record: RequestRecord) -> Iterator[tuple[str, AttributeValue]]:
    request, read, generations = record.request, record.read, record.generations
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
    if read is not None:
        yield "gen_ai.usage.input_tokens", read.prompt
        yield "gen_ai.usage.cache_read.input_tokens", read.cached
        yield "gen_ai.usage.output_tokens", sum(len(it.tokens) for it in generations)
    if finished := [it.ending.finish for it in generations if it.ending is not None]:
        yield "gen_ai.response.finish_reasons", finished
    yield "mlx_worker.dialect", record.dialect
    yield "mlx_worker.outcome", record.outcome
    yield "mlx_worker.request_id", request_id(request)


def _operation(dialect: str) -> str:
    return "text_completion" if dialect == "completions" else "chat"


def _is_server_error(record: RequestRecord) -> bool:
    """By HTTP's conventions what is wrong with a request is no error of the server's span."""
    return bool(record.error) and not 400 <= (record.status or 0) < 500  # noqa: PLR2004


def _phases(record: RequestRecord) -> Iterator[tuple[str, float, float]]:
    """(name, from, to): in line, to the first token of any choice, to the last of all.

    What failed or was left ends in the phase that it had come to.
    """
    if record.accepted is None:
        return
    generations, end = record.generations, record.ended
    handed = min((it.handed_over[0] for it in generations if it.handed_over), default=None)
    first = min((at for it in generations if (at := it.first_token_at) is not None), default=None)
    last = max((it.ended_at or end for it in generations), default=end)
    yield "queue", record.accepted, end if handed is None else handed
    if handed is not None:
        yield "prefill", handed, last if first is None else first
    if first is not None:
        yield "decode", first, last


def _add_crash_events(span: Span, record: RequestRecord, wall: Callable[[float], int]) -> None:
    """A process that ended, and the next one that went on, as events."""
    for it in record.generations:
        for i, loss in enumerate(it.losses, 1):
            tokens = {"mlx_worker.after_tokens": loss.tokens}
            span.add_event("mlx_worker.child_lost", tokens, wall(loss.at))
            if i < len(it.handed_over):
                span.add_event("mlx_worker.resumed", tokens, wall(it.handed_over[i]))


# --- the collector --------------------------------------------------------------------------


def _resource() -> Resource:
    """Who tells: `mlx-worker`, unless OpenTelemetry's own variables say otherwise."""
    ours = Resource.create({"service.name": "mlx-worker", "service.version": __version__})
    return ours.merge(OTELResourceDetector().detect())


class _ExportErrorLog(logging.Handler):
    """What the library complains of, in the node's log once, until spans are taken again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._is_reported = False

    def emit(self, record: logging.LogRecord) -> None:
        """On any thread, one at a time."""
        if record.name.startswith(("opentelemetry.exporter.", "opentelemetry.sdk.")):
            self.report(record.getMessage())

    def report(self, why: str) -> None:
        """Spans were not taken."""
        if not self._is_reported:
            self._is_reported = True
            log.warning(Entry("traces may be lost", why=why))

    def clear(self) -> None:
        """Spans were taken."""
        if self._is_reported:
            self._is_reported = False
            log.info("traces are taken again")


class _ReportingExporter(OTLPSpanExporter):
    """The library's, on its thread; says how it goes."""

    def __init__(self, url: str, errors: _ExportErrorLog) -> None:
        super().__init__(endpoint=url)
        self._errors = errors

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """A batch."""
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self._errors.clear()
        return result
