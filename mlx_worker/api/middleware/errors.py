"""Turn errors into the response that the client's library understands.

One middleware handles the error family, aiohttp's own refusals and unexpected exceptions. Bodies
are in the dialect of the request, OpenAI's where the path has none. Messages have field names and
numbers, never a prompt.

[front]
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

from aiohttp import web

from mlx_worker.api.dialects.errors import anthropic_error, anthropic_status, openai_error
from mlx_worker.api.middleware.decompression import SUPPORTED
from mlx_worker.api.middleware.not_found import suggestion_for
from mlx_worker.api.middleware.request_ids import REQUEST_ID, request_id
from mlx_worker.api.middleware.vendor import expects_anthropic
from mlx_worker.errors import InvalidRequest, Unauthorized, UnsupportedEncoding, WorkerError
from mlx_worker.logs import Entry

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)


class NoSuchPath(InvalidRequest):
    """No endpoint has this path."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "no_such_path"


class WrongMethod(InvalidRequest):
    """The endpoint at this path does not have this method."""

    status: ClassVar[int] = 405
    code: ClassVar[str] = "wrong_method"


def status_of(request: web.Request, error: WorkerError) -> int:
    """Return the HTTP status of an error, in the dialect of the request."""
    return anthropic_status(type(error)) if expects_anthropic(request) else error.status


def error_response(
    request: web.Request, error: WorkerError, headers: dict[str, str] | None = None
) -> web.Response:
    """Return an error as a response, with Retry-After in whole seconds where waiting helps."""
    all_headers = dict(headers or {})
    if error.retry_after is not None:
        all_headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        all_headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        all_headers["Accept-Encoding"] = SUPPORTED
    if not error.resend:
        # OpenAI's libraries would send the request twice more, and could crash as many children.
        all_headers["X-Should-Retry"] = "false"
    return web.Response(
        body=anthropic_error(error) if expects_anthropic(request) else openai_error(error),
        status=status_of(request, error),
        content_type="application/json",
        headers=all_headers,
    )


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what a handler raises into a response."""
    headers: dict[str, str] = {}
    problem: WorkerError
    try:
        return await handler(request)
    except WorkerError as error:
        problem = error
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        problem, headers = _error_and_headers(request, error)
    except web.RequestPayloadError as error:
        problem = InvalidRequest(f"the body cannot be read: {error}")
    except ConnectionResetError:
        raise  # the client has left: no response can reach it
    except Exception:
        log.exception(Entry("unexpected error", request_id=request_id(request), path=request.path))
        problem = WorkerError(f"the node failed on this request; its id is {request_id(request)}")
    try:
        return error_response(request, problem, {REQUEST_ID: request_id(request)} | headers)
    finally:
        # The error's traceback refers to this frame. Without `del` the two would keep each other,
        # and with them the request's body, until the garbage collector runs.
        del problem


def _error_and_headers(
    request: web.Request, error: web.HTTPException
) -> tuple[WorkerError, dict[str, str]]:
    """Return the error for what aiohttp refused by itself, and headers for its response."""
    match error.status:
        case 404:
            return NoSuchPath(
                f"there is nothing at {request.path}; {suggestion_for(request.path)}"
            ), {}
        case 405:
            allowed = error.headers.get("Allow", "")
            problem = WrongMethod(f"{request.path} answers {allowed}, not {request.method}")
            return problem, {"Allow": allowed}
        case _:
            return InvalidRequest(error.reason), {}
