"""List the endpoints that operators and the dashboard watch the node with.

[front]
"""

from __future__ import annotations

from mlx_worker.api.admin import (
    endpoints,
    process_report,
    request_endpoints,
)
from mlx_worker.api.admin.config_report import ConfigReport
from mlx_worker.api.dashboard import stream
from mlx_worker.api.dialects.native.log_level import LogLevelRequest
from mlx_worker.api.metrics.request_table import RequestRows
from mlx_worker.api.route import (
    EVENTS,
    JsonKeys,
    Route,
    Text,
)
from mlx_worker.errors import (
    UnknownModel,
)

OBSERVATION_ROUTES = (
    Route(
        method="GET",
        path="metrics",
        handler=endpoints.metrics,
        summary="Metrics for Prometheus",
        answer=Text(("text/plain", endpoints.OPENMETRICS)),
    ),
    Route(
        method="GET",
        path="admin/events",
        handler=endpoints.events,
        summary="Recent events, the oldest first",
        answer=JsonKeys.of("events"),
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/events/stream",
        handler=endpoints.event_stream,
        summary="Recent events, then each event as it happens",
        answer=EVENTS,
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/watch",
        handler=stream.dashboard_stream,
        summary="What the dashboard shows: events, a report of all figures once a second or with"
        " an event, and on request log lines and the table of requests",
        answer=EVENTS,
        query=("after", "logs", "logs_after", "requests"),
    ),
    Route(
        method="GET",
        path="admin/history",
        handler=stream.history,
        summary="The last hour of each model for charts, a sample every ten seconds",
        answer=JsonKeys.of("every samples"),
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/processes",
        handler=process_report.processes,
        summary="The node's processes: front, models, spares, helpers, parser of large bodies, and"
        " on macOS the assertion that keeps the machine awake",
        answer=process_report.ProcessList,
    ),
    Route(
        method="GET",
        path="admin/logs",
        handler=endpoints.log_lines,
        summary="Last lines of the node's log, or the output of one model's processes",
        answer=JsonKeys.of("level lines"),
        query=("model", "after"),
        errors=(UnknownModel,),
    ),
    Route(
        method="GET",
        path="admin/logs/stream",
        handler=endpoints.log_stream,
        summary="The same lines, then each line as it is written",
        answer=EVENTS,
        query=("model", "after"),
        errors=(UnknownModel,),
    ),
    Route(
        method="PUT",
        path="admin/logs/level",
        handler=endpoints.log_level,
        summary="Set the lowest level of log lines that are shown, until it is set again",
        body=LogLevelRequest,
        answer=JsonKeys.of("level"),
    ),
    Route(
        method="GET",
        path="admin/requests",
        handler=request_endpoints.requests,
        summary="Generation requests that run or wait, and the last ones that have ended",
        answer=RequestRows,
    ),
    Route(
        method="GET",
        path="admin/config",
        handler=endpoints.config,
        summary="The configuration in effect, without secret values",
        answer=ConfigReport,
    ),
)
