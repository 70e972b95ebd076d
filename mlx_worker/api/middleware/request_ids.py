"""Read and write the headers that name a request, its session, its model and its warnings.

[front]
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aiohttp import web

from mlx_worker.api.dialects.session_fields import Session, problem_of_session
from mlx_worker.api.middleware.session_headers import header_session
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.wire.parting import Parting

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
PROMPT_PARTED = "X-Prompt-Parted"
"""Where the prompt parts from the last one of its session."""
DROPPED_LINES = "X-System-Lines-Dropped"
"""The number of lines at the head of the system prompt that the configuration has dropped."""

_IN_A_HEADER: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

# Other ids are not echoed: proxies and clients have to parse the header that comes back.
_PLAIN = re.compile(r"[!-~]{1,200}")
_REQUEST: web.RequestKey[str] = web.RequestKey("request_id", str)
_SESSION: web.RequestKey[str] = web.RequestKey("session_id", str)
_OF_HEADERS: web.RequestKey[Session | None] = web.RequestKey("session_of_headers")
_OF_BODY: web.RequestKey[Session] = web.RequestKey("session_of_body", Session)


def request_id(request: web.Request) -> str:
    """Return the client's id for this request, or an id that is made once."""
    if _REQUEST not in request:
        request[_REQUEST] = _given(request, REQUEST_ID) or f"req-{secrets.token_hex(8)}"
    return request[_REQUEST]


def client_session(request: web.Request) -> Session | None:
    """Return the session that the client names, in a header or in the body; None if in neither.

    None also for a name that `check_session` refuses. The body counts once it is parsed.
    """
    if value := request.headers.get(SESSION_ID, ""):
        return None if problem_of_session(value) else Session(value)
    if _OF_HEADERS not in request:  # asked for several times, and headers do not change
        request[_OF_HEADERS] = header_session(request.headers)
    return request[_OF_HEADERS] or request.get(_OF_BODY)


def note_body_session(request: web.Request, session: Session | None) -> None:
    """Note the session that the body names, which counts where no header names one."""
    if session is not None:
        request[_OF_BODY] = session


def session_given(request: web.Request) -> str | None:
    """Return the client's name for its conversation; None if the client names none."""
    session = client_session(request)
    return session.id if session is not None and session.is_conversation else None


def check_session(request: web.Request) -> None:
    """Raise InvalidRequest for a session's name that this node cannot use."""
    if problem := problem_of_session(request.headers.get(SESSION_ID, "")):
        raise InvalidRequest(f"{SESSION_ID}: {problem}", param=SESSION_ID)


def response_headers(
    request: web.Request, model: str, warnings: Sequence[str], dropped_lines: int = 0
) -> dict[str, str]:
    """Return the headers of a response by this model; `warnings` say what was ignored."""
    headers = {
        REQUEST_ID: request_id(request),
        SESSION_ID: session_id(request),
        MODEL: model_id(model),
    }
    if dropped_lines:
        headers[DROPPED_LINES] = str(dropped_lines)
    return headers | ({WARNINGS: warnings_text(warnings)} if warnings else {})


def parting_header(request: web.Request, parting: Parting | None) -> dict[str, str]:
    """Return the header that says where a prompt parts; {} for a request without a session.

    None: no earlier prompt of the session is known.
    """
    if parting is None:
        return {} if session_given(request) is None else {PROMPT_PARTED: "part=unknown"}
    facts = {
        "part": parting.part,
        "turn": parting.turn,
        "role": parting.role,
        "shared": parting.shared,
        "last": parting.last,
    }
    known = (f"{name}={fact}" for name, fact in facts.items() if fact not in (None, ""))
    return {PROMPT_PARTED: ", ".join(known)}


def model_id(name: str) -> str:
    """Return a model's id for a header: what is not ASCII is percent-encoded."""
    return quote(name, safe=_IN_A_HEADER)


def warnings_text(warnings: Sequence[str]) -> str:
    """Return warnings for a header, percent-encoded."""
    return quote("; ".join(warnings), safe=_IN_A_HEADER)


def session_id(request: web.Request) -> str:
    """Return the client's session, or a new session that is made once."""
    if _SESSION not in request:
        session = client_session(request)
        request[_SESSION] = secrets.token_hex(16) if session is None else session.id
    return request[_SESSION]


def _given(request: web.Request, name: str) -> str | None:
    value = request.headers.get(name, "")
    return value if _PLAIN.fullmatch(value) else None
