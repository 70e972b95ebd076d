"""Push to the dashboard all that it shows, in one stream a reader.

A browser has few connections to a node, so events, log lines, reports and the table of requests
share one. What comes within `BATCH_INTERVAL` is sent as one batch: a burst of events costs a reader
no more than two reports a second. All readers are due at the same moments, and share what is
formatted for them.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.api.admin.event_stream import (
    entries_after,
    entry_events,
    entry_number,
    first_entry,
    named_events,
    send_stream,
)
from mlx_worker.api.admin.log_buffer import LOG_BUFFER
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dashboard.history import HISTORY, SAMPLE_INTERVAL
from mlx_worker.api.dashboard.report import DASHBOARD_EVENTS
from mlx_worker.api.middleware.auth import NO_KEY, key_name
from mlx_worker.api.middleware.responses import json_response
from mlx_worker.errors import InvalidRequest, UnknownModel
from mlx_worker.json_output import encode
from mlx_worker.supervisor.ring_buffer import set_within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aiohttp import web

    from mlx_worker.api.dashboard.report import DashboardEvents
    from mlx_worker.supervisor.ring_buffer import RingBuffer

REPORT_INTERVAL: Final = 1.0
"""Seconds between two reports while nothing happens."""

BATCH_INTERVAL: Final = 0.5
"""Seconds between two batches while much happens. The first event after a pause is sent at once."""

ALL_LINES: Final = "*"


async def history(request: web.Request) -> web.Response:
    """Serve `GET /admin/history`: samples, the oldest first; with `?after=ID` the newer ones."""
    samples = entries_after(request, request.app[HISTORY].samples)
    return json_response({"every": SAMPLE_INTERVAL, "samples": samples})


async def dashboard_stream(request: web.Request) -> web.StreamResponse:
    """Serve `GET /admin/watch`: the events after `?after=`, and `report` events between them.

    With `?logs=*` the node's log lines after `logs_after` come as `log` events, with `?logs=ID`
    those of a model. With `?requests=1` the table of requests comes as `requests` events. The name
    of the API key comes once, as a `reader` event, where the node needs keys.
    """
    watch = _Watch(
        events=request.app[CONTEXT].node.events,
        last_event=first_entry(request),
        lines=_lines(request),
        last_line=entry_number(request.query.get("logs_after", "0"), "logs_after"),
        shared=request.app[DASHBOARD_EVENTS],
        wants_requests=_wants_requests(request),
        key_name=key_name(request),
    )
    return await send_stream(request, watch.batches())


def _lines(request: web.Request) -> RingBuffer[Any] | None:
    """Return the lines that `?logs=` names; None without it. Raises InvalidRequest."""
    match request.query.get("logs"):
        case None:
            return None
        case "*":
            return request.app[LOG_BUFFER].lines
        case "":
            raise InvalidRequest("logs: is empty; '*' or the id of a model", param="logs")
        case name:
            try:
                return request.app[CONTEXT].node.named(name).child.lines
            except UnknownModel as error:
                raise InvalidRequest(f"logs: {error.message}", param="logs") from error


def _wants_requests(request: web.Request) -> bool:
    value = request.query.get("requests", "0")
    if value not in ("0", "1"):
        raise InvalidRequest(f"requests: {value!r} is neither 0 nor 1", param="requests")
    return value == "1"


@dataclass(slots=True)
class _Watch:
    """What one reader has, and what the reader gets next."""

    events: RingBuffer[Any]
    last_event: int
    lines: RingBuffer[Any] | None
    last_line: int
    shared: DashboardEvents
    wants_requests: bool
    key_name: str
    sent_requests: int | None = None
    report_due: float = 0.0

    async def batches(self) -> AsyncGenerator[bytes, None]:
        """Yield batches of events until the node ends."""
        if self.key_name != NO_KEY:
            yield b"event: reader\ndata: %s\n\n" % encode({"keyName": self.key_name})
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        with contextlib.ExitStack() as stack:
            for ring in filter(None, (self.events, self.lines)):
                stack.enter_context(ring.notifying(changed))
            while True:
                changed.clear()
                is_last = self.events.is_closed
                if batch := self._next_batch(loop.time()):
                    yield batch
                if is_last:
                    return
                now = loop.time()
                if not await self.events.closed_within(_next_moment(now) - now):
                    await set_within(changed, self.report_due - loop.time())

    def _next_batch(self, now: float) -> bytes:
        events = self._new_events()
        parts = [events, self._new_lines()]
        if events or now >= self.report_due:
            self.report_due = _next_moment(now + REPORT_INTERVAL - BATCH_INTERVAL)
            parts += [self.shared.report(), self._new_requests()]
        return b"".join(parts)

    def _new_events(self) -> bytes:
        if self.events.newest == self.last_event:
            return b""
        entries = self.events.after(self.last_event)
        self.last_event = self.events.newest
        return entry_events(entries)

    def _new_lines(self) -> bytes:
        if self.lines is None or self.lines.newest == self.last_line:
            return b""
        entries = self.lines.after(self.last_line)
        self.last_line = self.lines.newest
        return named_events("log", entries)

    def _new_requests(self) -> bytes:
        """Return the table of requests, unless the reader has the same table already."""
        version = self.shared.requests_version
        if not self.wants_requests or (version is not None and version == self.sent_requests):
            return b""
        self.sent_requests = version
        return self.shared.requests()


def _next_moment(now: float) -> float:
    """Return the next of the moments, on the loop's clock, at which all readers are due.

    A moment that is very near is passed over: two batches would follow each other closely.
    """
    return math.floor(now / BATCH_INTERVAL + 1.5) * BATCH_INTERVAL
