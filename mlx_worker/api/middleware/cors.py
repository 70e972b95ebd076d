"""Pages in a browser that may ask this node: none, unless the configuration names their origin.

Credentials (cookies, TLS certificates) are never allowed: a key goes in a header that the page
sets itself. [front]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.middleware.request_ids import CACHE_HIT, MODEL, REQUEST_ID, SESSION_ID, WARNINGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp.typedefs import Handler, Middleware

    from mlx_worker.api.route import Route

EXPOSED = (
    f"{REQUEST_ID}, {SESSION_ID}, {CACHE_HIT}, {MODEL}, {WARNINGS}, Retry-After, WWW-Authenticate"
)
REMEMBERED = 600
"""Seconds for which a browser need not ask again."""

_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]{0,1000}")


class Cors:
    """The origins that may ask, and by which methods."""

    def __init__(self, origins: tuple[str, ...], routes: Iterable[Route]) -> None:
        self._methods = ", ".join(sorted({name for route in routes for name in route.methods}))
        self._any = origins == ("*",)
        self._origins = frozenset(origins)

    def install(self, app: web.Application) -> None:
        """Before all other middlewares: a preflight has no key, and a refusal is to be read."""
        app.middlewares.insert(0, self._preflight)
        app.on_response_prepare.append(self._allow)

    def _allowed(self, request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        if origin is None:
            return None
        return "*" if self._any else origin if origin in self._origins else None

    async def _allow(self, request: web.Request, response: web.StreamResponse) -> None:
        """Streams and errors too: every response passes here before its headers are sent."""
        if not self._any:
            response.headers.add("Vary", "Origin")
        if allowed := self._allowed(request):
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers["Access-Control-Expose-Headers"] = EXPOSED

    @property
    def _preflight(self) -> Middleware:
        @web.middleware
        async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
            asked = "Access-Control-Request-Method" in request.headers
            names = request.headers.get("Access-Control-Request-Headers", "")
            asked = asked and request.method == "OPTIONS" and bool(_HEADER_NAMES.fullmatch(names))
            if not (asked and self._allowed(request)):
                return await handler(request)
            headers = {
                "Access-Control-Allow-Methods": self._methods,
                "Access-Control-Allow-Headers": names,
                "Access-Control-Max-Age": str(REMEMBERED),
            }
            return web.Response(status=204, headers=headers)

        return preflight
