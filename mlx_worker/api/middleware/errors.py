"""Everything that can go wrong in a handler, as the answer its caller understands.

One middleware turns the error family, aiohttp's own refusals and whatever nobody thought of into
bodies of the dialect that was spoken, OpenAI's where it is none; messages carry field names and
numbers, never a prompt. [front]
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

from aiohttp import web

from mlx_worker.api.dialects.errors import anthropic_error, anthropic_status, openai_error
from mlx_worker.api.dialects.vendor import expects_anthropic
from mlx_worker.api.middleware.decompression import SUPPORTED
from mlx_worker.api.middleware.not_found import nearest
from mlx_worker.api.middleware.request_ids import REQUEST_ID, request_id
from mlx_worker.errors import InvalidRequest, Unauthorized, UnsupportedEncoding, WorkerError
from mlx_worker.logs import Entry

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)


class NoSuchPath(InvalidRequest):
    """Nothing is served there."""

    status: ClassVar[int] = 404
    code: ClassVar[str] = "no_such_path"


class WrongMethod(InvalidRequest):
    """Something is served there, but not by that method."""

    status: ClassVar[int] = 405
    code: ClassVar[str] = "wrong_method"


def status_of(request: web.Request, error: WorkerError) -> int:
    """The HTTP status that tells of an error where it was asked."""
    return anthropic_status(type(error)) if expects_anthropic(request) else error.status


def answer(
    request: web.Request, error: WorkerError, headers: dict[str, str] | None = None
) -> web.Response:
    """An error as a response, with Retry-After in whole seconds where waiting helps."""
    anthropic = expects_anthropic(request)
    more = dict(headers or {})
    if error.retry_after is not None:
        more["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        more["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        more["Accept-Encoding"] = SUPPORTED
    if not error.resend:
        # OpenAI's libraries would send it again twice, and fell as many children again.
        more["X-Should-Retry"] = "false"
    return web.Response(
        body=anthropic_error(error) if anthropic else openai_error(error),
        status=status_of(request, error),
        content_type="application/json",
        headers=more,
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into its answer."""
    headers: dict[str, str] = {}
    problem: WorkerError
    try:
        return await handler(request)
    except WorkerError as error:
        problem = error
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        problem, headers = _refusal(request, error)
    except web.RequestPayloadError as error:
        problem = InvalidRequest(f"the body cannot be read: {error}")
    except ConnectionResetError:
        raise  # the client has left: nobody is there to be answered
    except Exception:
        log.exception(Entry("unforeseen", request_id=request_id(request), path=request.path))
        problem = WorkerError(f"the node failed on this request; its id is {request_id(request)}")
    try:
        return answer(request, problem, {REQUEST_ID: request_id(request)} | headers)
    finally:
        # Its traceback knows this frame: the two would keep each other, and with them the request's
        # body, until the collector comes by.
        del problem


def _refusal(request: web.Request, error: web.HTTPException) -> tuple[WorkerError, dict[str, str]]:
    """Name what aiohttp refused by itself."""
    match error.status:
        case 404:
            return NoSuchPath(f"there is nothing at {request.path}; {nearest(request.path)}"), {}
        case 405:
            allowed = error.headers.get("Allow", "")
            problem = WrongMethod(f"{request.path} answers {allowed}, not {request.method}")
            return problem, {"Allow": allowed}
        case _:
            return InvalidRequest(error.reason), {}
