"""What operators and their tools look at: metrics, events, log lines. [front]"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from mlx_worker import logs
from mlx_worker.api.admin.event_stream import listed, live
from mlx_worker.api.context import FRONT
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.parsing.body_kinds import LogLevelBody
from mlx_worker.api.parsing.parser import parse_body

if TYPE_CHECKING:
    from mlx_worker.config.schema import LogLevel
    from mlx_worker.supervisor.node import Node
    from mlx_worker.supervisor.ring_buffer import Ring

OPENMETRICS: Final = "application/openmetrics-text"


def _json(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: Prometheus' text, or OpenMetrics where it is asked for."""
    from mlx_worker.api.metrics.prometheus import exposed  # noqa: PLC0415  (a start does without it)

    # Of two texts, by name alone: the library trips over versions that are none.
    wanted = OPENMETRICS in request.headers.get("Accept", "")
    accept = f"{OPENMETRICS}; version=1.0.0" if wanted else ""
    body, content_type = exposed(request.app[FRONT], accept)
    return web.Response(body=body, headers={"Content-Type": content_type})


# --- events -------------------------------------------------------------------------------


async def events(request: web.Request) -> web.Response:
    """`GET /admin/events`: the last ones, the oldest first; `?after=ID` only what came since."""
    return _json({"events": listed(request, request.app[FRONT].node.events)})


async def live_events(request: web.Request) -> web.StreamResponse:
    """`GET /admin/events/stream`: the same, and then whatever happens."""
    return await live(request, request.app[FRONT].node.events)


# --- log ----------------------------------------------------------------------------------


async def log_lines(request: web.Request) -> web.Response:
    """`GET /admin/logs`: the node's last lines; `?model=`: all that its processes wrote."""
    return _json({"level": logs.level(), "lines": listed(request, _lines(request))})


async def live_log_lines(request: web.Request) -> web.StreamResponse:
    """`GET /admin/logs/stream`: the same, and then whatever comes."""
    return await live(request, _lines(request))


def _lines(request: web.Request) -> Ring[Any]:
    front = request.app[FRONT]
    name = request.query.get("model")
    return front.own_log.lines if name is None else front.node.named(name).child.lines


async def log_level(request: web.Request) -> web.Response:
    """`PUT /admin/logs/level`: until it is set again, or the node starts anew."""
    body = await parse_body(request, await read_body(request), LogLevelBody())
    set_level(request.app[FRONT].node, body.level)
    return _json({"level": logs.level()})


def set_level(node: Node, level: LogLevel) -> None:
    """Show what is of this level or above, and say so."""
    logs.set_level(level)
    node.events.happened("level", shown_from=level)


# --- the end ------------------------------------------------------------------------------


async def end_live(app: web.Application) -> None:
    """Let go of those who read along: the node waits for every handler's end."""
    front = app[FRONT]
    front.node.events.close()
    front.own_log.lines.close()
    for served in front.node.models.values():
        served.child.lines.close()
