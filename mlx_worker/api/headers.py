"""The headers that tie a request to its session and to the log. [front]"""

from __future__ import annotations

import re
import secrets

from aiohttp import web

REQUEST_ID = "X-Request-Id"
SESSION_ID = "X-Session-Id"
CACHE_HIT = "X-Cache-Hit"

# Anything else is not echoed: a header that comes back goes through other people's parsers.
_PLAIN = re.compile(r"[!-~]{1,200}")
_REQUEST: web.RequestKey[str] = web.RequestKey("request_id", str)
_SESSION: web.RequestKey[str] = web.RequestKey("session_id", str)


def request_id(request: web.Request) -> str:
    """The caller's id for this request, or one made once."""
    if _REQUEST not in request:
        request[_REQUEST] = _given(request, REQUEST_ID) or f"req-{secrets.token_hex(8)}"
    return request[_REQUEST]


def session_given(request: web.Request) -> str | None:
    """The caller's own name for its session."""
    return _given(request, SESSION_ID)


def session_id(request: web.Request) -> str:
    """The caller's session, or a new one made once."""
    if _SESSION not in request:
        request[_SESSION] = session_given(request) or secrets.token_hex(16)
    return request[_SESSION]


def _given(request: web.Request, name: str) -> str | None:
    value = request.headers.get(name, "")
    return value if _PLAIN.fullmatch(value) else None
