"""Connections: how many there are, and how long one may keep the node waiting.

A connection that has not sent a whole request within `idle_timeout`, counted from its begin or
from its last answer, is closed by aiohttp; so a request's head has a deadline, however it drips.
One that is asked to take bytes and does not for `send_timeout` is ended here: its handler is
cancelled, and the generation with it. What it leaves unsent is bounded: nobody writes above 64 KiB.

A body is not inflated on its way in: nothing of a request may cost more than its bytes before the
key was looked at.

Over `max_connections` those that are idle leave, the oldest first. Where all are at work, a few
more are let in to ask how the node is, and are refused everything else. [front]
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mlx_worker.api.dialects.errors import openai_error
from mlx_worker.api.metrics.slow_steps import CONNECTION
from mlx_worker.api.middleware.half_close import Prober
from mlx_worker.api.middleware.paths import plain
from mlx_worker.errors import InvalidRequest, TooManyConnections
from mlx_worker.system.file_limit import ConnectionBudget

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader
    from aiohttp.typedefs import Handler, Middleware

    from mlx_worker.api.metrics.slow_steps import SlowSteps
    from mlx_worker.config.schema import ServerConfig

log = logging.getLogger(__name__)

HEALTH_ONLY_CONNECTIONS = 32
"""Connections over `max_connections` that may ask for health."""

HEALTH_PATHS = ("/health", "/cluster/health", "/health/live", "/health/ready")
"""Answered from memory, also where nothing else would be."""

MAX_LINE_BYTES = 8 * 1024
MAX_FIELD_BYTES = 8 * 1024
MAX_HEADERS = 100
"""What a request's head may be: bytes of its first line, of a header, and how many of those."""

LINGERING_TIME = 1.0
"""Seconds in which a refused body may still come, so that its sender reads the refusal."""

RETRY_AFTER = 1.0
"""Seconds after which there may be room for one more connection."""


class NotHttp(InvalidRequest):
    """Bytes that are no HTTP request."""

    code = "not_http"


class Connection(web.RequestHandler):
    """One connection, which has to take what it asked for."""

    __slots__ = ("_last_body", "_limiter", "_prober", "_send_deadline", "_tcp")

    def __init__(self, limiter: ConnectionLimiter, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._limiter = limiter
        self._tcp: asyncio.Transport | None = None
        self._send_deadline: asyncio.TimerHandle | None = None
        self._last_body: StreamReader | None = None
        self._prober: Prober | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It counts from here."""
        self._tcp = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        self._limiter.connected(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """To here."""
        self._cancel_send_deadline()
        if self._prober is not None:
            self._prober.cancel()
        self._limiter.disconnected(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take it apart, and see how long that holds everybody else up."""
        slow_steps = self._limiter.slow_steps
        began = slow_steps.clock()
        super().data_received(data)
        if self._messages:
            self._last_body = self._messages[-1][1]
        slow_steps.record(CONNECTION, slow_steps.clock() - began)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps it open
        """The client sends no more: keep the connection for the answers to what was asked whole."""
        assert self._tcp is not None, "it was made"
        if self._tcp.get_extra_info("sslcontext") is not None or not self._has_unanswered_request:
            return False
        if self._prober is None:
            self._prober = Prober(self._loop, self._tcp, lambda: self._current_request)
        self._close_after_last()
        return True

    async def finish_response(self, *args: Any) -> tuple[web.StreamResponse, bool]:
        """Send an answer to its end; the last one to a client that sends no more is the end."""
        finished = await super().finish_response(*args)
        if self._prober is not None:
            self._close_after_last()
        return finished

    @property
    def _has_unanswered_request(self) -> bool:
        """True if all that has come is whole requests, and one of them is not answered yet."""
        is_whole = self._last_body is not None and self._last_body.is_eof()
        return is_whole and (bool(self._messages) or self._waiter is None)

    def _close_after_last(self) -> None:
        if not self._messages:
            self.close()

    def pause_writing(self) -> None:
        """Its client takes nothing: the clock runs."""
        super().pause_writing()
        self._send_deadline = self._loop.call_later(
            self._limiter.send_timeout, self._abort_slow_reader
        )

    def resume_writing(self) -> None:
        """It has taken something."""
        self._cancel_send_deadline()
        super().resume_writing()

    def abort(self) -> None:
        """End it now, whatever is still to be sent."""
        if self._tcp is not None:
            self._tcp.abort()

    def _cancel_send_deadline(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    def _abort_slow_reader(self) -> None:
        log.info("a client took nothing for %g s: its connection ends", self._limiter.send_timeout)
        self.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP is refused in JSON too, and none of it is logged: it may be a key."""
        # aiohttp quotes an Expect that it does not know, and cannot encode what is no text in it.
        if not isinstance(exc, HttpProcessingError | UnicodeEncodeError):
            return super().handle_error(request, status, exc, message)
        log.debug("not HTTP: %s", type(exc).__name__)
        response = web.Response(
            body=openai_error(NotHttp(f"this is no HTTP request: {type(exc).__name__}")),
            status=HTTPStatus.BAD_REQUEST,
            content_type="application/json",
        )
        response.force_close()
        return response


class ConnectionLimiter:
    """All connections of a node; who is at work, and who is one too many."""

    def __init__(self, server: ServerConfig, slow_steps: SlowSteps) -> None:
        self.slow_steps = slow_steps
        self.send_timeout = server.send_timeout
        self._places = ConnectionBudget(server.max_connections, HEALTH_ONLY_CONNECTIONS)
        self._idle_timeout = server.idle_timeout
        self._admitted: dict[web.RequestHandler, None] = {}  # in the order of their last answer
        self._health_only: set[web.RequestHandler] = set()
        self._busy: set[web.RequestHandler] = set()

    @property
    def places(self) -> ConnectionBudget:
        """How many connections there may be."""
        return self._places

    def lower_limits(self, places: ConnectionBudget) -> None:
        """Have fewer places from now on; connections that are open stay open."""
        self._places = places

    def abort_all(self) -> None:
        """End every connection now, whatever is still to be sent."""
        for connection in [*self._admitted, *self._health_only]:
            cast("Connection", connection).abort()

    def create_protocol(self, manager: web.Server) -> Connection:
        """The protocol of the next connection to a server."""
        return Connection(
            self,
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=self._idle_timeout,
            lingering_time=LINGERING_TIME,
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_HEADERS,
        )

    def connected(self, connection: Connection) -> None:
        """There is one more: make room, let it in beside, or send it away."""
        if len(self._admitted) < self._places.working:
            self._admitted[connection] = None
        elif idle := next((it for it in self._admitted if it not in self._busy), None):
            del self._admitted[idle]
            self._admitted[connection] = None
            cast("Connection", idle).abort()
        elif len(self._health_only) < self._places.beside:
            self._health_only.add(connection)
        else:
            connection.abort()

    def disconnected(self, connection: Connection) -> None:
        """There is one less."""
        self._admitted.pop(connection, None)
        self._health_only.discard(connection)

    @property
    def middleware(self) -> Middleware:
        """The middleware that knows who is at work; an idle connection has no request in it."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            if connection in self._health_only:
                connection.close()  # once this one is answered
                if plain(request) not in HEALTH_PATHS:
                    raise TooManyConnections(
                        f"{self._places.working} connections are at work (max_connections)",
                        retry_after=RETRY_AFTER,
                    )
            self._busy.add(connection)
            try:
                return await handler(request)
            finally:
                self._busy.discard(connection)
                if self._admitted.pop(connection, connection) is None:
                    self._admitted[connection] = None

        return middleware


CONNECTION_LIMITER: web.AppKey[ConnectionLimiter] = web.AppKey(
    "connection_limiter", ConnectionLimiter
)
