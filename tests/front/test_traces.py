"""What a collector is told of requests: a real one, which decodes what the node sends."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from mlx_worker.api.metrics.tracing import FLUSH_THREAD
from mlx_worker.config.schema import TelemetryConfig
from mlx_worker.logs import RecordCallback
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from tests.dialects import ALL
from tests.front.asking import Front, Serve, asked, model
from tests.rounds import variants
from tests.supervisor_harness import Fifo, eventually, scripted_command, soon

CHAT = "POST /v1/chat/completions"
PATH = "/v1/chat/completions"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
UNREADABLE = (
    "",
    "00",
    f"ff-{TRACE}-{CALLER}-01",
    f"00-{'0' * 32}-{CALLER}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{CALLER}-01",
    f"00-{TRACE}-{CALLER}-01-more",
    "x" * 2000,
    "\xe9\xff",
)
EXPORTING = {"OtelBatchSpanRecordProcessor", FLUSH_THREAD}
LOST = "traces may be lost"
FOUND = "the collector accepts traces again"

Start = Callable[..., Awaitable[Front]]


class Collector:
    """Takes traces over HTTP, or answers with another `status`, or not while it may not."""

    def __init__(self) -> None:
        self.status = 200
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.bodies: list[bytes] = []
        self.resource: dict[str, Any] = {}
        self.spans: list[Span] = []
        self._came = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        if self.status == 200:
            self._read(ExportTraceServiceRequest.FromString(body))
        self._came.set()
        await self.may_answer.wait()
        return web.Response(status=self.status)

    def _read(self, sent: ExportTraceServiceRequest) -> None:
        for of_resource in sent.resource_spans:
            self.resource = facts(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans

    async def next_body(self) -> None:
        """Wait until more comes than what is there."""
        self._came.clear()
        await soon(self._came.wait())

    async def request(self, name: str = CHAT) -> Span:
        """Wait for the only server span of this name, and return it."""
        while not (found := [span for span in self.spans if span.name == name]):
            await self.next_body()
        (span,) = found
        return span

    def beneath(self, parent: Span) -> list[Span]:
        """Its children, in the order of their times."""
        return sorted(
            (span for span in self.spans if span.parent_span_id == parent.span_id),
            key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano),
        )


def value(attribute: AnyValue) -> Any:
    kind = attribute.WhichOneof("value")
    assert kind is not None
    return (
        [value(item) for item in attribute.array_value.values]
        if kind == "array_value"
        else getattr(attribute, kind)
    )


def facts(span: Any) -> dict[str, Any]:
    """The attributes of a span, an event or a resource."""
    return {attribute.key: value(attribute.value) for attribute in span.attributes}


@pytest.fixture(autouse=True)
def soon_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are not waited for, and no proxy stands in between."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def shown(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the node's log shows; pytest also hears what is kept from it."""
    caplog.set_level(logging.INFO, "mlx_worker")
    lines: list[str] = []
    log = RecordCallback(lambda record: lines.append(record.getMessage()))
    logging.getLogger().addHandler(log)
    yield lines
    logging.getLogger().removeHandler(log)


@pytest.fixture(autouse=True)
async def exporters_end() -> AsyncIterator[None]:
    """Wait for the threads of the library: their messages would be in the next test's log."""
    yield

    async def have_ended() -> bool:
        return not EXPORTING & {thread.name for thread in threading.enumerate()}

    await eventually(have_ended)


@pytest.fixture
async def collector() -> Collector:
    return Collector()


@pytest.fixture
async def endpoint(collector: Collector) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    async with TestServer(app, port=unused_port()) as server:
        yield str(server.make_url("/"))
        collector.may_answer.set()


@pytest.fixture
def traced(endpoint: str, serve: Serve) -> Start:
    """Serve, with traces to the collector."""

    async def start(*flags: str | Path, **settings: Any) -> Front:
        return await serve(*flags, telemetry=TelemetryConfig(endpoint), **settings)

    return start


def tells_in_order(root: Span, phases: list[Span]) -> None:
    """Each phase begins where the previous phase ends, and the request encloses them."""
    moments = [root.start_time_unix_nano, phases[0].start_time_unix_nano]
    for phase in phases:
        assert phase.start_time_unix_nano == moments[-1]
        moments.append(phase.end_time_unix_nano)
    moments.append(root.end_time_unix_nano)
    assert moments == sorted(moments)


# --- what is told ---------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_is_a_server_span_with_its_phases_beneath_it_in_order(
    traced: Start, collector: Collector, stream: bool
) -> None:
    front = await traced()
    body = asked("one two three", stream=stream)
    before = time.time_ns()
    await front.ask(f"/v1{PATH}", body, X_Request_Id="r-1", X_Session_Id="s-1")
    root = await collector.request()
    assert before <= root.start_time_unix_nano <= root.end_time_unix_nano <= time.time_ns()
    assert (root.kind, root.status.code) == (Span.SPAN_KIND_SERVER, Status.STATUS_CODE_UNSET)
    assert root.parent_span_id == b""
    phases = collector.beneath(root)
    assert [span.name for span in phases] == ["queue", "prefill", "decode"]
    assert {span.trace_id for span in phases} == {root.trace_id}
    tells_in_order(root, phases)
    assert facts(root) == {
        "http.request.method": "POST",
        "http.route": PATH,
        "http.response.status_code": 200,
        "url.path": f"/v1{PATH}",
        "url.scheme": "http",
        "gen_ai.provider.name": "mlx_worker",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.conversation.id": "s-1",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["stop"],
        "mlx_worker.dialect": "chat",
        "mlx_worker.disk_tokens": 0,
        "mlx_worker.outcome": "success",
        "mlx_worker.request_id": "r-1",
    }


async def test_every_dialect_is_told_by_its_endpoint(traced: Start, collector: Collector) -> None:
    front = await traced()
    for dialect in ALL:
        assert (await front.ask(dialect.path, dialect.body("one two"))).status == 200
        told = facts(await collector.request(f"POST {dialect.path}"))
        operation = "chat" if dialect.chats else "text_completion"
        assert (told["http.route"], told["gen_ai.operation.name"]) == (dialect.path, operation)
        assert told["gen_ai.usage.output_tokens"] == 2


async def test_choices_share_the_phases_of_their_answer(
    traced: Start, collector: Collector
) -> None:
    front = await traced()
    await front.chat("one two", n=3)
    root = await collector.request()
    assert [span.name for span in collector.beneath(root)] == ["queue", "prefill", "decode"]
    told = facts(root)
    assert told["gen_ai.request.choice.count"] == 3
    assert told["gen_ai.usage.output_tokens"] == 6
    assert told["gen_ai.response.finish_reasons"] == ["stop"] * 3


async def test_time_in_line_is_the_queues(traced: Start, collector: Collector, pace: Fifo) -> None:
    front = await traced("--pace", pace.path, models=(model(max_concurrency=1, max_queue=1),))
    first = asyncio.ensure_future(front.ask(PATH, asked("one"), X_Request_Id="first"))
    await front.reaches(running=1)
    second = asyncio.ensure_future(front.ask(PATH, asked("two"), X_Request_Id="second"))
    await front.reaches(queueDepth=1)
    pace.let(2)
    await soon(asyncio.gather(first, second))
    while len(roots := [span for span in collector.spans if span.name == CHAT]) < 2:
        await collector.next_body()
    phases = {facts(span)["mlx_worker.request_id"]: collector.beneath(span) for span in roots}
    (*_, decode), (queue, *_) = phases["first"], phases["second"]
    assert queue.start_time_unix_nano < decode.end_time_unix_nano <= queue.end_time_unix_nano


async def test_traces_service_name_is_mlx_worker_or_the_environments(
    traced: Start, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = await traced()
    await front.chat("one")
    await collector.request()
    assert collector.resource["service.name"] == "mlx-worker"
    collector.spans.clear()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "studio-1")
    front = await traced()
    await front.chat("one")
    await collector.request()
    assert collector.resource["service.name"] == "studio-1"


async def test_nothing_that_was_asked_or_answered_leaves_the_node(
    traced: Start, collector: Collector
) -> None:
    front = await traced("--fail-after-tokens", "2", "--only", "breaks")
    secret = {"Authorization": "Bearer marmalade-key"}
    for words in ("marmalade whispers", "marmalade whispers breaks"):
        body = asked(words, system="marmalade-system", stream=True, user="marmalade-user")
        await front.ask(f"{PATH}?marmalade-query", body, **secret)
    await front.ask(PATH, {"messages": "marmalade", "marmalade": 1})
    while len([span for span in collector.spans if span.name == CHAT]) < 3:
        await collector.next_body()
    for sent in collector.bodies:
        assert b"marmalade" not in sent
        assert b"whispers" not in sent


# --- the caller's trace -----------------------------------------------------------------------


async def test_the_callers_span_is_the_parent(traced: Start, collector: Collector) -> None:
    front = await traced()
    caller = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "router=a1,other=2"}
    await front.ask(PATH, asked("one"), **caller)
    root = await collector.request()
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, CALLER)
    assert root.trace_state == "router=a1,other=2"
    assert {span.trace_id.hex() for span in collector.beneath(root)} == {TRACE}


async def test_what_the_caller_does_not_sample_is_not_told(
    traced: Start, collector: Collector
) -> None:
    front = await traced()
    await front.ask(PATH, asked("one"), traceparent=f"00-{TRACE}-{CALLER}-00")
    await front.ask(PATH, asked("one"), X_Request_Id="the next one")
    root = await collector.request()
    assert root.trace_id.hex() != TRACE
    assert len(collector.spans) == 4


async def test_a_parent_that_cannot_be_read_is_none(traced: Start, collector: Collector) -> None:
    front = await traced()
    for given in UNREADABLE:
        collector.spans.clear()
        answer = await front.ask(PATH, asked("one"), traceparent=given, tracestate="router=a1")
        assert answer.status == 200
        root = await collector.request()
        assert (root.parent_span_id, root.trace_state) == (b"", ""), given
        assert root.trace_id.hex() != TRACE


async def test_traces_invalid_tracestate_is_left_out_of_trace_and_log(
    traced: Start, collector: Collector, shown: list[str]
) -> None:
    front = await traced()
    caller = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "=marmalade"}
    await front.ask(PATH, asked("one"), **caller)
    root = await collector.request()
    assert (root.trace_id.hex(), root.trace_state) == (TRACE, "")
    assert any(line.startswith("request ") for line in shown)
    assert not any("marmalade" in line for line in shown)


# --- what went wrong --------------------------------------------------------------------------


async def test_a_full_queue_is_told_as_a_refusal_in_line(
    traced: Start, collector: Collector, pace: Fifo
) -> None:
    front = await traced("--pace", pace.path, models=(model(max_concurrency=1, max_queue=0),))
    running = asyncio.ensure_future(front.chat("one"))
    await front.reaches(running=1)
    assert (await front.chat("two")).status == 429
    root = await collector.request()
    told = facts(root)
    assert told["http.response.status_code"] == 429
    assert (told["error.type"], told["mlx_worker.outcome"]) == ("queue_full", "refused")
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert [span.name for span in collector.beneath(root)] == ["queue"]
    pace.let(1)
    await soon(running)


async def test_a_request_that_means_nothing_has_no_phases(
    traced: Start, collector: Collector
) -> None:
    front = await traced()
    assert (await front.ask(PATH, {"messages": 1})).status == 400
    root = await collector.request()
    told = facts(root)
    assert (told["http.response.status_code"], told["mlx_worker.outcome"]) == (400, "client_error")
    assert "gen_ai.request.model" not in told
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert collector.beneath(root) == []


@pytest.mark.parametrize(("stream", "status"), [(True, 200), (False, 500)])
async def test_a_failure_in_mid_answer_is_an_error_of_the_span(
    traced: Start, collector: Collector, stream: bool, status: int
) -> None:
    front = await traced("--fail-after-tokens", "2")
    await front.chat("one two three", stream=stream)
    root = await collector.request()
    told = facts(root)
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert (told["http.response.status_code"], told["error.type"]) == (status, "inference_error")
    assert told["gen_ai.usage.output_tokens"] == 2
    assert "gen_ai.response.finish_reasons" not in told
    phases = collector.beneath(root)
    assert [span.name for span in phases] == ["queue", "prefill", "decode"]
    tells_in_order(root, phases)


async def test_a_client_that_leaves_is_told_as_such(
    traced: Start, collector: Collector, pace: Fifo
) -> None:
    front = await traced("--pace", pace.path)
    stream = await soon(front.open(PATH, asked("one two", stream=True)))
    pace.let(1)
    await soon(stream.content.readuntil(b'"one"'))
    stream.close()
    root = await collector.request()
    told = facts(root)
    assert told["mlx_worker.outcome"] == "cancelled"
    assert "error.type" not in told
    phases = collector.beneath(root)
    assert [span.name for span in phases] == ["queue", "prefill", "decode"]
    tells_in_order(root, phases)


async def test_a_crash_that_was_gone_on_from_is_two_events(
    traced: Start, collector: Collector, tmp_path: Path
) -> None:
    front = await traced("--die-after-tokens", "2", "--once", tmp_path / "once")
    await front.chat("one two three", stream=True)
    root = await collector.request()
    lost, resumed = root.events
    assert [lost.name, resumed.name] == ["mlx_worker.child_lost", "mlx_worker.resumed"]
    assert facts(lost) == facts(resumed) == {"mlx_worker.after_tokens": 2}
    decode = collector.beneath(root)[-1]
    moments = [decode.start_time_unix_nano, lost.time_unix_nano, resumed.time_unix_nano]
    assert [*moments, decode.end_time_unix_nano] == sorted([*moments, decode.end_time_unix_nano])
    assert facts(root)["mlx_worker.outcome"] == "success"
    assert root.status.code == Status.STATUS_CODE_UNSET


async def test_a_crash_without_a_successor_is_one_event_and_an_error(
    traced: Start, collector: Collector
) -> None:
    front = await traced("--die-after-tokens", "2", policy=RestartPolicy(intensity=0))
    await front.chat("one two three", stream=True)
    root = await collector.request()
    assert [event.name for event in root.events] == ["mlx_worker.child_lost"]
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert facts(root)["error.type"] == "child_lost"


# --- a collector in trouble -------------------------------------------------------------------


async def test_a_collector_that_refuses_is_one_warning_until_it_takes_again(
    traced: Start, collector: Collector, shown: list[str]
) -> None:
    collector.status = 401
    front = await traced()
    for batches in (1, 2, 3):
        assert (await front.chat("one")).text == "one"
        while len(collector.bodies) < batches:
            await collector.next_body()
    collector.status = 200
    await front.chat("one")
    await collector.request()
    await soon(front.client.close())
    lost, found = (line for line in shown if "traces" in line)
    assert lost.startswith(LOST)
    assert "401" in lost
    assert found == FOUND


async def test_a_collector_that_is_not_there_costs_a_line_of_the_log(
    serve: Serve, shown: list[str]
) -> None:
    front = await serve(telemetry=TelemetryConfig(f"http://127.0.0.1:{unused_port()}"))
    for _ in range(3):
        assert (await front.chat("one two")).text == "one two"
    await soon(front.client.close())
    (line,) = (line for line in shown if "traces" in line or "export" in line)
    assert line.startswith(LOST)


async def test_a_collector_that_never_answers_does_not_keep_a_node_from_stopping(
    traced: Start, collector: Collector, shown: list[str]
) -> None:
    collector.may_answer.clear()
    front = await traced()
    await front.chat("one")
    await collector.request()
    await soon(front.client.close())
    (line,) = (line for line in shown if line.startswith(LOST))
    assert "did not accept the last spans within" in line


async def test_what_is_not_sent_yet_is_sent_when_the_node_stops(
    traced: Start, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    front = await traced()
    await front.chat("one")
    assert collector.bodies == []
    await soon(front.client.close())
    assert [span.name for span in collector.spans].count(CHAT) == 1


# --- without it -------------------------------------------------------------------------------

REPORT = """
import asyncio, json, sys
from pathlib import Path
from aiohttp.test_utils import TestClient, TestServer
from mlx_worker.config.schema import Config, ModelConfig, ServerConfig, TelemetryConfig
from mlx_worker.server import build_app
from mlx_worker.supervisor.process.launch.launcher import ProcessLauncher
from mlx_worker.supervisor.process.launch.spares import StandbyPolicy

folder, endpoint, *command = sys.argv[1:]

async def main():
    config = Config(
        models=(ModelConfig(id="m", path=folder),),
        telemetry=TelemetryConfig(endpoint or None),
    )
    app = build_app(config, standby=StandbyPolicy(spares=0), launcher=ProcessLauncher(command))
    async with TestClient(TestServer(app)) as client:
        body = {"messages": [{"role": "user", "content": "one two"}]}
        async with client.post("/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))

asyncio.run(main())
"""


@pytest.mark.process
@pytest.mark.parametrize("endpoint", variants(["", "http://127.0.0.1:1"], [""]))
def test_the_library_is_loaded_only_where_there_is_a_collector(nano: Path, endpoint: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPORT, nano, endpoint, *scripted_command()],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "mlx_worker" in loaded
    assert bool(loaded & {"opentelemetry", "google", "requests"}) is bool(endpoint)
