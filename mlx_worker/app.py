"""Build the aiohttp application of one node: routes, middlewares, and what lives as long as they.

Handlers answer while models start, after they have failed, and without any model. Nothing in them
waits for a child, except a request that needs one.

[front]
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from mlx_worker.api.admin.endpoints import close_event_streams
from mlx_worker.api.admin.log_buffer import LOG_BUFFER, LogBuffer
from mlx_worker.api.admin.reload import CONFIG_RELOADER, ConfigReloader, folder_access
from mlx_worker.api.context import ADDRESSES, CONTEXT, AppContext
from mlx_worker.api.dashboard.history import HISTORY, MetricsHistory
from mlx_worker.api.dashboard.report import DASHBOARD_EVENTS, DashboardEvents
from mlx_worker.api.dashboard.static import PAGE, page, page_files
from mlx_worker.api.generation.lingering.table import RECORDED_REQUESTS, RecordedRequests
from mlx_worker.api.metrics.counters import RequestMetrics
from mlx_worker.api.metrics.loop_lag import EventLoopLagMonitor
from mlx_worker.api.middleware.auth import CREDENTIALS, Authentication
from mlx_worker.api.middleware.body import BODY_LIMITS, BodyLimits
from mlx_worker.api.middleware.connections import CONNECTION_LIMITER, ConnectionLimiter
from mlx_worker.api.middleware.cors import Cors
from mlx_worker.api.middleware.csrf import same_origin_middleware
from mlx_worker.api.middleware.errors import error_middleware
from mlx_worker.api.middleware.slow_steps import SLOW_STEPS, SlowSteps
from mlx_worker.api.openapi import DOCUMENTED_ROUTES
from mlx_worker.api.parsing.parser import PARSER, Parser
from mlx_worker.api.routes import ROUTES
from mlx_worker.health import RequestStats, node_request_stats
from mlx_worker.models.resolve import unseen
from mlx_worker.security.credentials import Credentials
from mlx_worker.supervisor import settings
from mlx_worker.supervisor.node import Node
from mlx_worker.supervisor.process.launch.launcher import CHILD_LAUNCHER
from mlx_worker.system.sleep_assertion import SleepAssertion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.typedefs import Middleware

    from mlx_worker.api.admin.reload import MakeTypes
    from mlx_worker.api.metrics.tracing import RequestTracer
    from mlx_worker.config.schema import Config, ServerConfig, TelemetryConfig
    from mlx_worker.models.weight_types import WeightTypes
    from mlx_worker.supervisor.blas.preparation import BlasPreparation
    from mlx_worker.supervisor.process.launch.launcher import Launcher
    from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
    from mlx_worker.supervisor.process.lifecycle import Timings
    from mlx_worker.supervisor.process.restart_policy import RestartPolicy
    from mlx_worker.supervisor.requests.resume_policy import ResumePolicy

PAGE_ROUTES = [("", page), (r"page/{name:(?:\w+/)?\w+\.\w+}", page)]
"""Paths that a browser loads. They belong to no API, so `openapi.json` does not list them."""

LEADING_V1 = "/{v1:/*(?:v1/+)*}"
"""Any run of /v1 in front of a path is accepted: clients have it in their base URL, in their path,
or in both. Where a client joins the two there are often two slashes, or one too many at the end."""

TRAILING_SLASHES = "{end:/*}"


def build_app(
    config: Config,
    *,
    stats: RequestStats | None = None,
    timings: Timings | None = None,
    policy: RestartPolicy | None = None,
    resume: ResumePolicy | None = None,
    standby: StandbyPolicy | None = None,
    launcher: Launcher = CHILD_LAUNCHER,
    blas: BlasPreparation | None = None,
) -> web.Application:
    """Return the application of one node, which starts its children and ends them.

    What is not given is the product's own: the process-wide request stats, the timings and policies
    of the configuration, the real child. `blas` is what the launcher's children preload; None:
    mlx's own BLAS. Folders of models are inspected once the application runs: a model whose folder
    cannot be used is `failed`, and the others serve. Raises ConfigError for keys or a certificate
    that cannot be used.
    """
    supervisor = config.supervisor

    def weight_types(config: Config) -> WeightTypes:
        return settings.weight_types(config, fast_blas=blas is not None and blas.blas.is_fast)

    def create_node() -> Node:
        return Node(
            unseen(config),
            timings=timings or settings.timings(supervisor),
            policy=policy or settings.restart_policy(supervisor),
            resume=resume or settings.resume_policy(supervisor, config.server),
            standby=standby or settings.standby_policy(supervisor),
            memory_limit=settings.memory_limit(supervisor),
            launcher=launcher,
            folders=folder_access(config, weight_types),
            cache=config.cache,
            prepared=None if blas is None else blas.ready,
        )

    app = _app_without_node(config.server)
    of_node = node_request_stats() if stats is None else stats
    app.cleanup_ctx.append(partial(_run_node, config, create_node, of_node, weight_types))
    app.on_shutdown.append(close_event_streams)
    return app


def _app_without_node(server: ServerConfig) -> web.Application:
    slow_steps = SlowSteps()
    limiter, credentials = ConnectionLimiter(server, slow_steps), Credentials(server)
    app = web.Application(middlewares=_middlewares(server, slow_steps, limiter, credentials))
    app[SLOW_STEPS], app[CONNECTION_LIMITER], app[CREDENTIALS] = slow_steps, limiter, credentials
    app[BODY_LIMITS] = BodyLimits(
        server.max_body_bytes,
        server.body_timeout,
        partial(_context_lengths, app),
        lambda: app[CONTEXT].node.pause,
    )
    app[DOCUMENTED_ROUTES] = ROUTES
    app[PAGE] = page_files()
    if server.cors_origins:
        methods = {method for route in ROUTES for method in route.methods}
        Cors(server.cors_origins, methods).install(app)
    for route in ROUTES:
        for method in route.methods:
            app.router.add_route(method, _pattern(route.path), route.handler)
    for path, handler in PAGE_ROUTES:
        app.router.add_get(_pattern(path), handler)
    return app


def _middlewares(
    server: ServerConfig,
    slow_steps: SlowSteps,
    limiter: ConnectionLimiter,
    credentials: Credentials,
) -> list[Middleware]:
    """Return the middlewares, the outermost first."""
    origins = server.cors_origins
    authentication = Authentication(
        credentials,
        origins,
        public={page, *(route.handler for route in ROUTES if route.access == "public")},
        open_to_trusted={route.handler for route in ROUTES if route.access == "trusted"},
    )
    same_origin = same_origin_middleware(
        server.host_names, origins, authentication.excludes_foreign_pages
    )
    return [
        slow_steps.middleware,
        error_middleware,
        limiter.middleware,
        same_origin,
        authentication.middleware,
    ]


def _pattern(path: str) -> str:
    """Return the router's pattern of a path: slashes at its end are no part of a name in it."""
    return LEADING_V1 + path.replace(".+}", ".+?}") + TRAILING_SLASHES


def _context_lengths(app: web.Application) -> list[int | None]:
    return [model.planned.context_length for model in app[CONTEXT].node.models.values()]


async def _run_node(
    config: Config,
    create_node: Callable[[], Node],
    node_stats: RequestStats,
    weight_types: MakeTypes,
    app: web.Application,
) -> AsyncIterator[None]:
    """Run the node and what observes it while the application runs."""
    node, request_metrics = create_node(), RequestMetrics()
    app[CONNECTION_LIMITER].set_pause_detector(node.pause)
    app[SLOW_STEPS].on_slow_step = partial(_report_slow_step, node)
    async with contextlib.AsyncExitStack() as stack:
        loop_lag = stack.enter_context(EventLoopLagMonitor(app[SLOW_STEPS], node.pause))
        app[LOG_BUFFER] = stack.enter_context(LogBuffer())
        app[HISTORY] = stack.enter_context(MetricsHistory(node, request_metrics))
        sleep_assertion = await stack.enter_async_context(_sleep_assertion(config, node))
        tracer = await stack.enter_async_context(_request_tracer(config.telemetry))
        app[RECORDED_REQUESTS] = await stack.enter_async_context(RecordedRequests(config.server))
        app[PARSER] = await stack.enter_async_context(Parser(node.pause))
        app[CONFIG_RELOADER] = ConfigReloader(config, node, app[CREDENTIALS], weight_types)
        app[CONTEXT] = AppContext(
            node=node,
            node_stats=node_stats,
            model_stats=defaultdict(RequestStats),
            request_metrics=request_metrics,
            loop_lag=loop_lag,
            tracer=tracer,
            reasoning_summaries=config.server.reasoning_summaries,
            first_byte_timeout=config.server.first_byte_timeout,
            addresses=app.get(ADDRESSES, ()),
            sleep_assertion=sleep_assertion,
        )
        app[DASHBOARD_EVENTS] = DashboardEvents(app[CONTEXT], app[HISTORY].recent)
        await node.kv_folder.open()
        node.start()
        yield
        await node.stop()


def _sleep_assertion(config: Config, node: Node, **injected: Any) -> SleepAssertion:
    """Return what keeps the machine awake as the configuration says; tests inject its parts."""
    has_work: dict[str, Callable[[], bool] | None] = {
        "while_working": lambda: node.has_work,
        "always": lambda: True,
        "never": None,
    }
    return SleepAssertion(has_work[config.supervisor.prevent_sleep], **injected)


def _report_slow_step(node: Node, path: str, seconds: float) -> None:
    node.events.record("loop held", level=logging.WARNING, path=path, ms=round(seconds * 1000, 1))


@contextlib.asynccontextmanager
async def _request_tracer(telemetry: TelemetryConfig) -> AsyncIterator[RequestTracer | None]:
    """Yield what sends traces to the collector; None without a collector."""
    if telemetry.endpoint is None:
        yield None
        return
    # An extra that takes nearly half a second to import: only a node with a collector pays for it.
    from mlx_worker.api.metrics.tracing import RequestTracer  # noqa: PLC0415

    async with RequestTracer(telemetry.endpoint) as tracer:
        yield tracer
