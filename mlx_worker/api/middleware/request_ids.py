"""Read and write the headers that name a request, its session, its model and its warnings.

[front]
"""

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
IDEMPOTENCY_KEY = "Idempotency-Key"
"""The client's own name of a request and of all its repetitions."""
CACHE_HIT = "X-Cache-Hit"
MODEL = "X-Model"
"""The configured id of the model that answered, whatever name the request used."""
JOINED = "X-Joined"
"""The id of the request whose response was given to this one."""
WARNINGS = "X-Warnings"
"""What of the request was ignored, as in the response's `warnings`."""

MAX_SESSION_BYTES: Final = 1024
"""Bytes of a client's name for its session: the node keeps it while the session waits."""

_IN_A_HEADER: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

# Other ids are not echoed: proxies and clients have to parse the header that comes back.
_PLAIN = re.compile(r"[!-~]{1,200}")
_REQUEST: web.RequestKey[str] = web.RequestKey("request_id", str)
_SESSION: web.RequestKey[str] = web.RequestKey("session_id", str)


def request_id(request: web.Request) -> str:
    """Return the client's id for this request, or an id that is made once."""
    if _REQUEST not in request:
        request[_REQUEST] = _given(request, REQUEST_ID) or f"req-{secrets.token_hex(8)}"
    return request[_REQUEST]


def session_given(request: web.Request) -> str | None:
    """Return the client's name for its session; None for a name that `check_session` refuses."""
    value = request.headers.get(SESSION_ID, "")
    return value if value and not _problem_of_session(value) else None


def check_session(request: web.Request) -> None:
    """Raise InvalidRequest for a session's name that this node cannot use."""
    if problem := _problem_of_session(request.headers.get(SESSION_ID, "")):
        raise InvalidRequest(f"{SESSION_ID}: {problem}", param=SESSION_ID)


def response_headers(request: web.Request, model: str, warnings: Sequence[str]) -> dict[str, str]:
    """Return the headers of a response by this model; `warnings` say what was ignored."""
    headers = {
        REQUEST_ID: request_id(request),
        SESSION_ID: session_id(request),
        MODEL: model_id(model),
    }
    return headers | ({WARNINGS: warnings_text(warnings)} if warnings else {})


def model_id(name: str) -> str:
    """Return a model's id for a header: what is not ASCII is percent-encoded."""
    return quote(name, safe=_IN_A_HEADER)


def warnings_text(warnings: Sequence[str]) -> str:
    """Return warnings for a header, percent-encoded."""
    return quote("; ".join(warnings), safe=_IN_A_HEADER)


def session_id(request: web.Request) -> str:
    """Return the client's session, or a new session that is made once."""
    if _SESSION not in request:
        request[_SESSION] = session_given(request) or secrets.token_hex(16)
    return request[_SESSION]


def _problem_of_session(value: str) -> str:
    """Return what is wrong with a name; "" if nothing. Spaces and other alphabets are allowed."""
    if not value.isprintable():
        return "has a character that cannot be printed, or bytes that are not UTF-8"
    size = len(value.encode())
    return f"has {size} bytes; at most {MAX_SESSION_BYTES}" if size > MAX_SESSION_BYTES else ""


def _given(request: web.Request, name: str) -> str | None:
    value = request.headers.get(name, "")
    return value if _PLAIN.fullmatch(value) else None
