"""Limit the number of connections, and how long one connection may keep the node waiting.

aiohttp closes a connection that has not sent a whole request within `idle_timeout`, counted from
its start or from its last response. So a request's head has a deadline, however slowly it comes.
A connection whose client reads nothing for `send_timeout` is aborted here: its handler is
cancelled, and the generation with it. Unsent bytes are bounded: nothing is written above 64 KiB.
Time in which this process did not run counts against no client.

aiohttp does not decompress bodies: before the API key is checked, a request must not cost more
than its own bytes.

Over `max_connections`, idle connections are closed, the oldest first. Where all are busy, a few
more connections may ask for health, and are refused everything else.

[front]
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mlx_worker.api.dialects.errors import openai_error
from mlx_worker.api.middleware.half_close import Prober
from mlx_worker.api.middleware.paths import plain
from mlx_worker.api.middleware.slow_steps import CONNECTION
from mlx_worker.errors import InvalidRequest, TooManyConnections
from mlx_worker.system.file_limit import ConnectionBudget

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.streams import StreamReader
    from aiohttp.typedefs import Handler, Middleware

    from mlx_worker.api.middleware.slow_steps import SlowSteps
    from mlx_worker.config.schema import ServerConfig
    from mlx_worker.supervisor.process.pause import PauseDetector, Timer

log = logging.getLogger(__name__)

HEALTH_ONLY_CONNECTIONS = 32
"""Connections over `max_connections` that may ask for health."""

HEALTH_PATHS = ("/health", "/cluster/health", "/health/live", "/health/ready")
"""Paths that a connection over the limit may use: they are answered from memory."""

MAX_LINE_BYTES = 8 * 1024
MAX_FIELD_BYTES = 8 * 1024
MAX_HEADERS = 100
"""Limits of a request's head: bytes of its first line, bytes of a header, number of headers."""

LINGERING_TIME = 1.0
"""Seconds in which the rest of a refused body may come, so that its client reads the refusal."""

RETRY_AFTER = 1.0
"""Seconds after which a client may try a new connection."""


class NotHttp(InvalidRequest):
    """The bytes are not an HTTP request."""

    code = "not_http"


class Connection(web.RequestHandler):
    """One connection, whose client has to read the responses.

    `on_reset` is called if the client's machine resets the connection before the client sends more:
    the client has gone with bytes that it has not read.
    """

    __slots__ = ("_last_body", "_limiter", "_prober", "_send_deadline", "_tcp", "on_reset")

    def __init__(self, limiter: ConnectionLimiter, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._limiter = limiter
        self._tcp: asyncio.Transport | None = None
        self._send_deadline: Timer | None = None
        self._last_body: StreamReader | None = None
        self._prober: Prober | None = None
        self.on_reset: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        self._tcp = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        self._limiter.connected(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting the connection."""
        self._cancel_send_deadline()
        if self._prober is not None:
            self._prober.cancel()
        self._limiter.disconnected(self)
        if self.on_reset is not None and isinstance(exc, ConnectionResetError):
            self.on_reset()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes, and record how long that blocks the event loop."""
        slow_steps = self._limiter.slow_steps
        began = slow_steps.clock()
        self.on_reset = None  # a client that sends more has read what it was sent
        super().data_received(data)
        if self._messages:
            self._last_body = self._messages[-1][1]
        slow_steps.record(CONNECTION, slow_steps.clock() - began)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps it open
        """Keep the connection open until every request that has arrived whole is answered."""
        assert self._tcp is not None, "the connection was made"
        if self._tcp.get_extra_info("sslcontext") is not None or not self._has_unanswered_request:
            return False
        if self._prober is None:
            self._prober = Prober(self._loop, self._tcp, lambda: self._current_request)
        self._close_after_last()
        return True

    @property
    def has_half_closed(self) -> bool:
        """True if the client has closed its side: the client may have left."""
        return self._prober is not None

    async def finish_response(self, *args: Any) -> tuple[web.StreamResponse, bool]:
        """Finish a response, and close after the last one to a client that sends no more."""
        finished = await super().finish_response(*args)
        if self._prober is not None:
            self._close_after_last()
        return finished

    @property
    def _has_unanswered_request(self) -> bool:
        """True if only whole requests have arrived, and one of them is not answered yet."""
        is_whole = self._last_body is not None and self._last_body.is_eof()
        return is_whole and (bool(self._messages) or self._waiter is None)

    def _close_after_last(self) -> None:
        if not self._messages:
            self.close()

    def pause_writing(self) -> None:
        """Start the deadline: the client reads nothing."""
        super().pause_writing()
        self._send_deadline = self._limiter.pause.timer(
            self._limiter.send_timeout, self._abort_slow_reader
        )

    def resume_writing(self) -> None:
        """Stop the deadline: the client has read something."""
        self._cancel_send_deadline()
        super().resume_writing()

    def abort(self) -> None:
        """End the connection now, whatever is still to be sent."""
        if self._tcp is not None:
            self._tcp.abort()

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle; aiohttp calls this after `idle_timeout`."""
        since = self._next_keepalive_close_time - self.keepalive_timeout
        self._next_keepalive_close_time += self._limiter.pause.after_last_pause(since) - since
        super()._process_keepalive()

    def _cancel_send_deadline(self) -> None:
        if self._send_deadline is not None:
            self._send_deadline.cancel()
            self._send_deadline = None

    def _abort_slow_reader(self) -> None:
        seconds = self._limiter.send_timeout
        log.info("a client read nothing for %g s: its connection is aborted", seconds)
        self.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse bytes that are not HTTP; no byte of them is logged: they may hold a key."""
        # aiohttp quotes an unknown Expect header, and fails where the header is not text.
        if not isinstance(exc, HttpProcessingError | UnicodeEncodeError):
            return super().handle_error(request, status, exc, message)
        log.debug("not HTTP: %s", type(exc).__name__)
        response = web.Response(
            body=openai_error(NotHttp(f"this is not an HTTP request: {type(exc).__name__}")),
            status=HTTPStatus.BAD_REQUEST,
            content_type="application/json",
        )
        response.force_close()
        return response


class ConnectionLimiter:
    """Knows all connections of a node: which are busy, and which are over the limit."""

    def __init__(self, server: ServerConfig, slow_steps: SlowSteps) -> None:
        self.slow_steps = slow_steps
        self.send_timeout = server.send_timeout
        self._pause: PauseDetector | None = None
        self._places = ConnectionBudget(server.max_connections, HEALTH_ONLY_CONNECTIONS)
        self._idle_timeout = server.idle_timeout
        self._admitted: dict[web.RequestHandler, None] = {}  # in the order of their last response
        self._health_only: set[web.RequestHandler] = set()
        self._busy: set[web.RequestHandler] = set()

    @property
    def pause(self) -> PauseDetector:
        """Return the detector of pauses of this process."""
        assert self._pause is not None, "the node runs before a connection is made"
        return self._pause

    def set_pause_detector(self, pause: PauseDetector) -> None:
        """Measure the time limits of connections without the pauses of this process."""
        self._pause = pause

    @property
    def places(self) -> ConnectionBudget:
        """Return how many connections there may be."""
        return self._places

    def lower_limits(self, places: ConnectionBudget) -> None:
        """Allow fewer connections from now on; open connections stay open."""
        self._places = places

    def abort_all(self) -> None:
        """Abort every connection now, whatever is still to be sent."""
        for connection in [*self._admitted, *self._health_only]:
            cast("Connection", connection).abort()

    def create_protocol(self, manager: web.Server) -> Connection:
        """Return the protocol of the next connection to a server."""
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
        """Admit a new connection in place of an idle one, admit it for health only, or abort it."""
        if len(self._admitted) < self._places.working:
            self._admitted[connection] = None
        elif idle := next(
            (admitted for admitted in self._admitted if admitted not in self._busy), None
        ):
            del self._admitted[idle]
            self._admitted[connection] = None
            cast("Connection", idle).abort()
        elif len(self._health_only) < self._places.beside:
            self._health_only.add(connection)
        else:
            connection.abort()

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._admitted.pop(connection, None)
        self._health_only.discard(connection)

    @property
    def middleware(self) -> Middleware:
        """Return the middleware that marks busy connections; an idle one has no request in it."""

        @web.middleware
        async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            if connection in self._health_only:
                connection.close()  # after this response
                if plain(request) not in HEALTH_PATHS:
                    raise TooManyConnections(
                        f"all {self._places.working} connections are busy (max_connections)",
                        retry_after=RETRY_AFTER,
                    )
            self._busy.add(connection)
            try:
                return await handler(request)
            finally:
                self._busy.discard(connection)
                if self._admitted.pop(connection, connection) is None:
                    self._admitted[connection] = None

        return limit


CONNECTION_LIMITER: web.AppKey[ConnectionLimiter] = web.AppKey(
    "connection_limiter", ConnectionLimiter
)
