"""The headers that tie a request to its session and to the log. [front]"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aiohttp import web

from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUEST_ID = "X-Request-Id"
SESSION_ID = "X-Session-Id"
CACHE_HIT = "X-Cache-Hit"
MODEL = "X-Model"
"""The configured id of the model that answered, whatever name the request had for it."""
WARNINGS = "X-Warnings"
"""What of the request was left out, as in the answer's `warnings`."""

LONGEST_SESSION: Final = 1024
"""Bytes of a caller's name for its session: the node keeps it while the session waits."""

_IN_A_HEADER: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

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
    """The caller's own name for its session; None for one that `check_session` refuses."""
    value = request.headers.get(SESSION_ID, "")
    return value if value and not _problem_of_session(value) else None


def check_session(request: web.Request) -> None:
    """Raise InvalidRequest for a session's name that this node could not keep to."""
    if problem := _problem_of_session(request.headers.get(SESSION_ID, "")):
        raise InvalidRequest(f"{SESSION_ID}: {problem}", param=SESSION_ID)


def model_id(name: str) -> str:
    """Return a model's id as a header can carry it: what is not ASCII comes percent-encoded."""
    return quote(name, safe=_IN_A_HEADER)


def warnings_text(warnings: Sequence[str]) -> str:
    """Return warnings as a header can carry them."""
    return quote("; ".join(warnings), safe=_IN_A_HEADER)


def session_id(request: web.Request) -> str:
    """The caller's session, or a new one made once."""
    if _SESSION not in request:
        request[_SESSION] = session_given(request) or secrets.token_hex(16)
    return request[_SESSION]


def _problem_of_session(value: str) -> str:
    """Return what is wrong with a name, "" for nothing. Spaces and other alphabets are fine."""
    if not value.isprintable():
        return "has a character that cannot be printed, or bytes that are not UTF-8"
    size = len(value.encode())
    return f"has {size} bytes; at most {LONGEST_SESSION}" if size > LONGEST_SESSION else ""


def _given(request: web.Request, name: str) -> str | None:
    value = request.headers.get(name, "")
    return value if _PLAIN.fullmatch(value) else None
