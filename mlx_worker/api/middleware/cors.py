"""Allow pages of the origins that the configuration names to send requests; by default none.

Credentials of a browser (cookies, TLS certificates) are never allowed: a page sends its API key in
a header.

[front]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.middleware.request_ids import (
    CACHE_HIT,
    DROPPED_LINES,
    JOINED,
    MODEL,
    PROMPT_PARTED,
    REQUEST_ID,
    SESSION_ID,
    WARNINGS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp.typedefs import Handler, Middleware

EXPOSED_HEADERS = (
    f"{REQUEST_ID}, {SESSION_ID}, {CACHE_HIT}, {MODEL}, {WARNINGS}, {DROPPED_LINES},"
    f" {PROMPT_PARTED}, {JOINED}, Retry-After, WWW-Authenticate"
)
MAX_AGE = 600
"""Seconds for which a browser need not repeat a preflight."""

_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]{0,1000}")


class Cors:
    """Allows requests of pages, by their origin and method."""

    def __init__(self, origins: tuple[str, ...], methods: Iterable[str]) -> None:
        self._methods = ", ".join(sorted(methods))
        self._any = origins == ("*",)
        self._origins = frozenset(origins)

    def install(self, app: web.Application) -> None:
        """Put the preflight before all other middlewares, because a preflight has no key."""
        app.middlewares.insert(0, self._preflight)
        app.on_response_prepare.append(self._add_headers)

    def _allowed_origin(self, request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        if origin is None:
            return None
        return "*" if self._any else origin if origin in self._origins else None

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers that let a page read a response, streams and errors included."""
        if not self._any:
            response.headers.add("Vary", "Origin")
        if allowed := self._allowed_origin(request):
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS

    @property
    def _preflight(self) -> Middleware:
        @web.middleware
        async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
            names = request.headers.get("Access-Control-Request-Headers", "")
            is_preflight = (
                request.method == "OPTIONS"
                and "Access-Control-Request-Method" in request.headers
                and bool(_HEADER_NAMES.fullmatch(names))
            )
            if not (is_preflight and self._allowed_origin(request)):
                return await handler(request)
            headers = {
                "Access-Control-Allow-Methods": self._methods,
                "Access-Control-Allow-Headers": names,
                "Access-Control-Max-Age": str(MAX_AGE),
            }
            return web.Response(status=204, headers=headers)

        return preflight
