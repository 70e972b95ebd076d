"""The front: its application, and the order in which it starts and stops.

The socket is bound before anything else, so that a taken port costs nothing and callers that come
early wait in its queue instead of meeting a refusal; handlers answer before, while and whether or
not a child lives. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from mlx_worker.api import handlers
from mlx_worker.api.admin import endpoints
from mlx_worker.api.admin.log_buffer import LogBuffer
from mlx_worker.api.admin.reload import ConfigReloader, folder_access
from mlx_worker.api.context import ADDRESSES, CONTEXT, AppContext
from mlx_worker.api.dashboard.history import MetricsHistory
from mlx_worker.api.dashboard.static import PAGE, page, page_files
from mlx_worker.api.metrics.counters import RequestMetrics
from mlx_worker.api.metrics.loop_lag import EventLoopLagMonitor
from mlx_worker.api.metrics.slow_steps import SlowSteps
from mlx_worker.api.middleware.auth import Authentication
from mlx_worker.api.middleware.body import BODY, BodyLimits
from mlx_worker.api.middleware.connections import CONNECTION_LIMITER, ConnectionLimiter
from mlx_worker.api.middleware.cors import Cors
from mlx_worker.api.middleware.credentials import CREDENTIALS, Credentials
from mlx_worker.api.middleware.csrf import same_origin
from mlx_worker.api.middleware.errors import problems
from mlx_worker.api.openapi import DOCUMENTED
from mlx_worker.api.parsing.parser import PARSER, Parser
from mlx_worker.api.routes import ROUTES
from mlx_worker.errors import StorageError, WorkerError
from mlx_worker.health import RequestStats, node_stats
from mlx_worker.listening import BACKLOG, listen, url_of_socket
from mlx_worker.logs import Entry
from mlx_worker.models.resolve import unseen
from mlx_worker.service.sd_notify import Notifier
from mlx_worker.supervisor import settings
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.outage import end_at_outage
from mlx_worker.supervisor.process.pause import PauseDetector
from mlx_worker.supervisor.process.private_tmp import scratch_folder
from mlx_worker.supervisor.process.process import CHILD_COMMAND
from mlx_worker.system.file_limit import (
    connection_budget,
    raise_limit,
    wanted_files,
    warn_of_few_files,
)
from mlx_worker.system.process_titles import set_port, set_title

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from mlx_worker.api.metrics.tracing import RequestTracer
    from mlx_worker.config.schema import Config, LogLevel, TelemetryConfig
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.restart_policy import RestartPolicy
    from mlx_worker.supervisor.process.spares import StandbyPolicy
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy

__all__ = ["build_app", "serve"]

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
"""Seconds in which a connection has to agree on TLS."""

GRACE = 1.0
"""Seconds after the end of a drain in which answers that are cut off may still be taken."""

PUBLIC = frozenset({handlers.live, handlers.ready, page})
"""Asked without a key: by whoever starts and balances nodes, for a yes or a no; and the page, which
asks its reader for one."""

OPEN_TO_TRUSTED = frozenset(
    {
        *(handlers.chat_completions, handlers.completion, handlers.response, handlers.message),
        *(handlers.count_tokens, handlers.tokenize, handlers.detokenize),
        *(handlers.models, handlers.model, handlers.health, handlers.cluster_health),
        *(handlers.cache_state, handlers.cache_warm),
    }
)
"""Asked without a key from a trusted address: what a cluster's router and its clients need. To
clear the cache, to operate the node and to read its metrics takes a key from everywhere."""

PAGE_ROUTES = [("", page), ("page/{name}", page)]
"""Of no API: what a browser loads."""

LEADING_V1 = "/{v1:/*(?:v1/+)*}"
"""Callers put any run of /v1 in front: their base URL has it, or their path, or both. Where the two
are joined there are often two slashes, and one too many at the end."""

TRAILING = "{end:/*}"


def build_app(
    config: Config,
    *,
    stats: RequestStats | None = None,
    timings: Timings | None = None,
    policy: RestartPolicy | None = None,
    resume: ResumePolicy | None = None,
    standby: StandbyPolicy | None = None,
    command: Sequence[str] = CHILD_COMMAND,
) -> web.Application:
    """The application of one node. It starts its children when it starts, and ends them.

    What is not given is the product's own: the process-wide node stats, what the configuration
    says of timings and policies, the real child. Models' folders are looked at once the
    application runs: a model whose folder cannot be used is `failed`, and the others serve. Raises
    ConfigError for keys or a certificate that cannot be used.
    """
    timings = timings or settings.timings(config.supervisor)
    policy = policy or settings.restart_policy(config.supervisor)
    resume = resume or settings.resume_policy(config.supervisor)
    standby = standby or settings.standby_policy(config.supervisor)
    server = config.server
    slow_steps = SlowSteps()
    credentials, limiter = Credentials(server), ConnectionLimiter(server, slow_steps)
    origins = server.cors_origins
    callers = Authentication(credentials, origins, public=PUBLIC, open_to_trusted=OPEN_TO_TRUSTED)
    browsers = same_origin(server.host_names, origins, callers.excludes_foreign_pages)
    app = web.Application(
        middlewares=[
            slow_steps.middleware,
            problems,
            limiter.middleware,
            browsers,
            callers.middleware,
        ]
    )
    app[CREDENTIALS], app[CONNECTION_LIMITER] = credentials, limiter
    app[BODY] = BodyLimits(server.max_body_bytes, server.body_timeout)
    if server.cors_origins:
        Cors(server.cors_origins, ROUTES).install(app)
    app[DOCUMENTED] = ROUTES
    app[PAGE] = page_files()
    for route in ROUTES:
        for method in route.methods:
            app.router.add_route(method, _pattern(route.path), route.handler)
    for path, handler in PAGE_ROUTES:
        app.router.add_get(_pattern(path), handler)

    async def node(app: web.Application) -> AsyncIterator[None]:
        children = Node(
            unseen(config),
            timings=timings,
            policy=policy,
            resume=resume,
            standby=standby,
            memory_limit=settings.memory_limit(config.supervisor),
            command=command,
            folders=folder_access(config),
        )
        of_node = node_stats() if stats is None else stats
        of_models: defaultdict[str, RequestStats] = defaultdict(RequestStats)
        request_metrics = RequestMetrics()
        slow_steps.on_slow_step = partial(_report_slow_step, children)
        with (
            EventLoopLagMonitor(slow_steps) as loop_lag,
            LogBuffer() as log_buffer,
            MetricsHistory(children, request_metrics) as history,
        ):
            async with _request_tracer(config.telemetry) as tracer, Parser() as parser:
                app[PARSER] = parser
                app[CONTEXT] = AppContext(
                    children,
                    of_node,
                    of_models,
                    ConfigReloader(config, children, credentials),
                    request_metrics,
                    loop_lag,
                    log_buffer,
                    history,
                    tracer,
                    server.reasoning_summaries,
                    app.get(ADDRESSES, ()),
                )
                children.start()
                yield
                await children.stop()

    app.cleanup_ctx.append(node)
    app.on_shutdown.append(endpoints.end_live)
    return app


def _pattern(path: str) -> str:
    """Return the router's pattern of a path: slashes at its end are no part of a name in it."""
    return LEADING_V1 + path.replace(".+}", ".+?}") + TRAILING


def _report_slow_step(node: Node, path: str, seconds: float) -> None:
    node.events.happened("loop held", level=logging.WARNING, path=path, ms=round(seconds * 1000, 1))


@contextlib.asynccontextmanager
async def _request_tracer(telemetry: TelemetryConfig) -> AsyncIterator[RequestTracer | None]:
    """What tells the collector, where there is one."""
    if telemetry.endpoint is None:
        yield None
        return
    # An extra of nearly half a second, which no other start is to wait for.
    from mlx_worker.api.metrics.tracing import RequestTracer  # noqa: PLC0415

    async with RequestTracer(telemetry.endpoint) as tracer:
        yield tracer


# --- start and stop -----------------------------------------------------------------------


async def serve(
    config: Config,
    *,
    on_listening: Callable[[str], Awaitable[None]] | None = None,
    command: Sequence[str] = CHILD_COMMAND,
) -> None:
    """Serve until SIGTERM or ctrl-C; drain, end the children in reverse order, return.

    SIGHUP has the configuration read again. A second signal cuts the drain short. `on_listening`
    is awaited, beside the serving, with the first base URL of the node once it answers; the node
    stops when it raises. Raises NothingServed where no model could be served for
    `exit_when_failed_for`.
    """
    app = build_app(config, command=command)
    _check_scratch()
    warn_of_few_files()
    _fit_connections(app[CONNECTION_LIMITER], len(config.models))
    sockets = listen(config.server)
    app[ADDRESSES] = urls = tuple(url_of_socket(sock, app[CREDENTIALS].tls) for sock in sockets)
    set_port(sockets[0].getsockname()[1])
    set_title("front")
    drain = config.supervisor.drain_timeout
    with (
        _signals() as stop,
        Notifier.of_this_process() as notifier,
        contextlib.ExitStack() as ending,
    ):
        for sock in sockets:
            ending.enter_context(sock)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=drain + 2 * GRACE)
        await runner.setup()
        try:
            async with _accepting(runner, sockets):
                gc.freeze()  # what is imported stays: to look it all over again takes 50 ms
                log.info("listening on %s", ", ".join(urls))
                context = runner.app[CONTEXT]
                notifier.ready()
                with (
                    _at_hangup(context.reload, notifier),
                    _at_user_signals(context.node, config.log.level),
                ):
                    outage = end_at_outage(context.node, config.supervisor.exit_when_failed_for)
                    await _until(stop, outage, *([on_listening(urls[0])] if on_listening else []))
                notifier.stopping()
                stop.clear()
                pause = PauseDetector(asyncio.get_running_loop(), GRACE)
                ending.callback(pause.close)
                ending.enter_context(
                    abort_leftover_connections(app[CONNECTION_LIMITER], drain + GRACE, stop, pause)
                )
                await _drain(context.node, stop)
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def _accepting(
    runner: web.AppRunner, sockets: Sequence[socket.socket]
) -> AsyncIterator[None]:
    """Connections to the sockets come in through the door."""
    server, limiter, tls = (
        runner.server,
        runner.app[CONNECTION_LIMITER],
        runner.app[CREDENTIALS].tls,
    )
    assert server is not None, "it was set up"
    with contextlib.ExitStack() as listeners:
        for sock in sockets:
            listener = await asyncio.get_running_loop().create_server(
                partial(limiter.create_protocol, server),
                sock=sock,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT,
            )
            listeners.callback(listener.close)
        yield


def _check_scratch() -> None:
    """Refuse now what no child could start with."""
    try:
        scratch_folder()
    except OSError as error:
        problem = f"children need a private folder in the user's cache folder: {error}"
        raise StorageError(problem) from error


def _fit_connections(limiter: ConnectionLimiter, models: int) -> None:
    """Each connection is an open file: have no more of them than the system allows."""
    wanted = limiter.places
    files = raise_limit(wanted_files(wanted, models))
    places = connection_budget(files, wanted, models)
    if places != wanted:
        limiter.lower_limits(places)
        entry = Entry(
            "max_connections lowered",
            configured=wanted.working,
            connections=places.working,
            open_files=files,
        )
        log.warning(entry)


async def _until(stop: asyncio.Event, *beside: Awaitable[None]) -> None:
    """Wait for the signal; what runs beside may end the node by raising."""
    stopped = asyncio.ensure_future(stop.wait())
    others = [asyncio.ensure_future(other) for other in beside]
    waiting: set[asyncio.Future[Any]] = {stopped, *others}
    try:
        while not stopped.done():
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                await task
    finally:
        for task in (stopped, *others):
            task.cancel()


@contextlib.contextmanager
def abort_leftover_connections(
    limiter: ConnectionLimiter, within: float, stop: asyncio.Event, pause: PauseDetector
) -> Iterator[None]:
    """End what connections are left after so many seconds, or soon after the next signal.

    A client that reads nothing of its answer would keep its handler, and so the node. A pause of
    this process begins the count anew, as it does that of the drain.
    """
    timers = [pause.timer(within, limiter.abort_all)]

    async def at_signal() -> None:
        await stop.wait()
        timers.append(pause.timer(GRACE, limiter.abort_all))

    hurried = asyncio.create_task(at_signal())
    try:
        yield
    finally:
        hurried.cancel()
        for timer in timers:
            timer.cancel()


async def _drain(node: Node, stop: asyncio.Event) -> None:
    log.info("draining: no new work; a second signal ends running streams")
    drained = asyncio.ensure_future(node.stop())
    hurried = asyncio.ensure_future(stop.wait())
    await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
    if not drained.done():
        node.hurry()
    await drained
    hurried.cancel()


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """SIGTERM and ctrl-C set the event, each time they come."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _at_hangup(reload: ConfigReloader, notifier: Notifier) -> Iterator[None]:
    """SIGHUP reloads; what comes of it is in the log."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def follow() -> None:
        notifier.reloading()
        with contextlib.suppress(WorkerError):
            await reload()
        notifier.ready()

    def begin() -> None:
        task = loop.create_task(follow())
        running.add(task)
        task.add_done_callback(running.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)
    try:
        yield
    finally:
        # From here on a hangup is no reason to end the process before it has drained.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        for task in running:
            task.cancel()


@contextlib.contextmanager
def _at_user_signals(node: Node, configured: LogLevel) -> Iterator[None]:
    """SIGUSR1 has the log say everything, SIGUSR2 what the configuration says again."""
    loop = asyncio.get_running_loop()
    levels: dict[int, LogLevel] = {signal.SIGUSR1: "debug", signal.SIGUSR2: configured}
    for number, level in levels.items():
        loop.add_signal_handler(number, partial(endpoints.set_level, node, level))
    try:
        yield
    finally:
        # As with a hangup: what is left of the process's life is no time to die of one.
        for number in levels:
            loop.add_signal_handler(number, lambda: None)
