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
from mlx_worker.system.file_limit import Places

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader
    from aiohttp.typedefs import Handler, Middleware

    from mlx_worker.api.metrics.slow_steps import Held
    from mlx_worker.config.schema import ServerConfig

log = logging.getLogger(__name__)

BESIDE = 32
"""Connections over `max_connections` that may ask for health."""

HEALTH = ("/health", "/cluster/health", "/health/live", "/health/ready")
"""Answered from memory, also where nothing else would be."""

MAX_LINE = 8 * 1024
MAX_FIELD = 8 * 1024
MAX_HEADERS = 100
"""What a request's head may be: bytes of its first line, of a header, and how many of those."""

LINGERING = 1.0
"""Seconds in which a refused body may still come, so that its sender reads the refusal."""

COME_AGAIN = 1.0
"""Seconds after which there may be room for one more connection."""


class NotHttp(InvalidRequest):
    """Bytes that are no HTTP request."""

    code = "not_http"


class Connection(web.RequestHandler):
    """One connection, which has to take what it asked for."""

    __slots__ = ("_deadline", "_door", "_last_body", "_prober", "_wire")

    def __init__(self, door: Door, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._door = door
        self._wire: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._last_body: StreamReader | None = None
        self._prober: Prober | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It counts from here."""
        self._wire = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        self._door.entered(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """To here."""
        self._taken()
        if self._prober is not None:
            self._prober.cancel()
        self._door.left(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take it apart, and see how long that holds everybody else up."""
        held = self._door.held
        began = held.clock()
        super().data_received(data)
        if self._messages:
            self._last_body = self._messages[-1][1]
        held.see(CONNECTION, held.clock() - began)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps it open
        """The client sends no more: keep the connection for the answers to what was asked whole."""
        assert self._wire is not None, "it was made"
        if self._wire.get_extra_info("sslcontext") is not None or not self._is_answering:
            return False
        if self._prober is None:
            self._prober = Prober(self._loop, self._wire, lambda: self._current_request)
        self._close_after_last()
        return True

    async def finish_response(self, *args: Any) -> tuple[web.StreamResponse, bool]:
        """Send an answer to its end; the last one to a client that sends no more is the end."""
        finished = await super().finish_response(*args)
        if self._prober is not None:
            self._close_after_last()
        return finished

    @property
    def _is_answering(self) -> bool:
        """True if all that has come is whole requests, and one of them is not answered yet."""
        is_whole = self._last_body is not None and self._last_body.is_eof()
        return is_whole and (bool(self._messages) or self._waiter is None)

    def _close_after_last(self) -> None:
        if not self._messages:
            self.close()

    def pause_writing(self) -> None:
        """Its client takes nothing: the clock runs."""
        super().pause_writing()
        self._deadline = self._loop.call_later(self._door.send_timeout, self._give_up)

    def resume_writing(self) -> None:
        """It has taken something."""
        self._taken()
        super().resume_writing()

    def end(self) -> None:
        """End it now, whatever is still to be sent."""
        if self._wire is not None:
            self._wire.abort()

    def _taken(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        log.info("a client took nothing for %g s: its connection ends", self._door.send_timeout)
        self.end()

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


class Door:
    """All connections of a node; who is at work, and who is one too many."""

    def __init__(self, server: ServerConfig, held: Held) -> None:
        self.held = held
        self.send_timeout = server.send_timeout
        self._places = Places(server.max_connections, BESIDE)
        self._idle_timeout = server.idle_timeout
        self._inside: dict[web.RequestHandler, None] = {}  # in the order of their last answer
        self._beside: set[web.RequestHandler] = set()
        self._working: set[web.RequestHandler] = set()

    @property
    def places(self) -> Places:
        """How many connections there may be."""
        return self._places

    def lower(self, places: Places) -> None:
        """Have fewer places from now on; connections that are open stay open."""
        self._places = places

    def end_all(self) -> None:
        """End every connection now, whatever is still to be sent."""
        for connection in [*self._inside, *self._beside]:
            cast("Connection", connection).end()

    def protocol(self, manager: web.Server) -> Connection:
        """The protocol of the next connection to a server."""
        return Connection(
            self,
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=self._idle_timeout,
            lingering_time=LINGERING,
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_HEADERS,
        )

    def entered(self, connection: Connection) -> None:
        """There is one more: make room, let it in beside, or send it away."""
        if len(self._inside) < self._places.working:
            self._inside[connection] = None
        elif idle := next((it for it in self._inside if it not in self._working), None):
            del self._inside[idle]
            self._inside[connection] = None
            cast("Connection", idle).end()
        elif len(self._beside) < self._places.beside:
            self._beside.add(connection)
        else:
            connection.end()

    def left(self, connection: Connection) -> None:
        """There is one less."""
        self._inside.pop(connection, None)
        self._beside.discard(connection)

    @property
    def watch(self) -> Middleware:
        """The middleware that knows who is at work; an idle connection has no request in it."""

        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            if connection in self._beside:
                connection.close()  # once this one is answered
                if plain(request) not in HEALTH:
                    raise TooManyConnections(
                        f"{self._places.working} connections are at work (max_connections)",
                        retry_after=COME_AGAIN,
                    )
            self._working.add(connection)
            try:
                return await handler(request)
            finally:
                self._working.discard(connection)
                if self._inside.pop(connection, connection) is None:
                    self._inside[connection] = None

        return watch


DOOR: web.AppKey[Door] = web.AppKey("door", Door)
