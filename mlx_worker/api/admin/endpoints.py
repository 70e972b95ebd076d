"""Serve what operators and their tools read: metrics, events, log lines; and the reload.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from mlx_worker import logs
from mlx_worker.api.admin.config_report import config_report
from mlx_worker.api.admin.event_stream import entries_after, stream_entries
from mlx_worker.api.admin.log_buffer import LOG_BUFFER
from mlx_worker.api.admin.reload import CONFIG_RELOADER
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.middleware.auth import key_name
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.middleware.responses import json_response
from mlx_worker.api.parsing.body_kinds import LogLevelBody
from mlx_worker.api.parsing.model_table import NodeModels
from mlx_worker.api.parsing.parser import parse_body

if TYPE_CHECKING:
    from mlx_worker.config.schema import LogLevel
    from mlx_worker.supervisor.node import Node
    from mlx_worker.supervisor.ring_buffer import RingBuffer

OPENMETRICS: Final = "application/openmetrics-text"


async def metrics(request: web.Request) -> web.Response:
    """Serve `GET /metrics`: Prometheus' text format, or OpenMetrics where the client accepts it."""
    # The library takes time to import, which the start of a node does not need.
    from mlx_worker.api.admin.prometheus.render import render_metrics  # noqa: PLC0415

    # The media type decides alone: the library fails on versions that it cannot parse.
    accepts_openmetrics = OPENMETRICS in request.headers.get("Accept", "")
    accept = f"{OPENMETRICS}; version=1.0.0" if accepts_openmetrics else ""
    body, content_type = render_metrics(request.app[CONTEXT], accept)
    return web.Response(body=body, headers={"Content-Type": content_type})


# --- events -------------------------------------------------------------------------------


async def events(request: web.Request) -> web.Response:
    """Serve `GET /admin/events`: recent events, the oldest first; `?after=ID` the newer ones."""
    return json_response({"events": entries_after(request, request.app[CONTEXT].node.events)})


async def event_stream(request: web.Request) -> web.StreamResponse:
    """Serve `GET /admin/events/stream`: recent events, then each event as it happens."""
    return await stream_entries(request, request.app[CONTEXT].node.events)


# --- log ----------------------------------------------------------------------------------


async def log_lines(request: web.Request) -> web.Response:
    """Serve `GET /admin/logs`: the node's last lines, or with `?model=` its processes' output."""
    return json_response({"level": logs.level(), "lines": entries_after(request, _lines(request))})


async def log_stream(request: web.Request) -> web.StreamResponse:
    """Serve `GET /admin/logs/stream`: the same lines, then each line as it is written."""
    return await stream_entries(request, _lines(request))


def _lines(request: web.Request) -> RingBuffer[Any]:
    name = request.query.get("model")
    if name is None:
        return request.app[LOG_BUFFER].lines
    return request.app[CONTEXT].node.named(name).child.lines


async def log_level(request: web.Request) -> web.Response:
    """Serve `PUT /admin/logs/level`: holds until it is set again, or the node restarts."""
    node = request.app[CONTEXT].node
    body = await parse_body(request, await read_body(request), LogLevelBody(), NodeModels(node))
    set_log_level(node, body.level)
    return json_response({"level": logs.level()})


def set_log_level(node: Node, level: LogLevel) -> None:
    """Show log lines of this level or above, and record the change as an event."""
    logs.set_level(level)
    node.events.record("level", shown_from=level)


# --- reload and end -----------------------------------------------------------------------


async def reload(request: web.Request) -> web.Response:
    """Serve `POST /admin/reload`: 200 with what has changed; `/health` reports the progress."""
    return json_response(await request.app[CONFIG_RELOADER]())


async def config(request: web.Request) -> web.Response:
    """Serve `GET /admin/config`: the configuration in effect, without a secret value."""
    name = key_name(request)
    effective = request.app[CONFIG_RELOADER].effective
    return json_response(config_report(effective, None if name == "-" else name))


async def close_event_streams(app: web.Application) -> None:
    """End the streams of events and log lines: a node that stops waits for every handler."""
    node = app[CONTEXT].node
    node.events.close()
    app[LOG_BUFFER].lines.close()
    for model in node.models.values():
        model.child.lines.close()
