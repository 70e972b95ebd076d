"""Who asks: the API key, looked at before anything else of a request is. [front]"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aiohttp.typedefs import Handler, Middleware

    from mlx_worker.keys import Keys

_NAME: web.RequestKey[str] = web.RequestKey("key_name", str)


def key_name(request: web.Request) -> str:
    """The name of the key that the request came with; "-" where none was needed."""
    return request[_NAME]


def authentication(current: Callable[[], Keys], unasked: Collection[Handler]) -> Middleware:
    """The middleware that lets nobody in without one of the current keys, if there are any.

    But for those who come to one of the `unasked`: by handler, since paths can be written in many
    ways.
    """

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        keys = current()
        request[_NAME] = "-"
        if keys and request.match_info.handler not in unasked:
            name = keys.name_of(_key_of(request))
            if name is None:
                raise Unauthorized(
                    "this node asks for an API key: Authorization: Bearer KEY, or x-api-key: KEY"
                )
            request[_NAME] = name
        return await handler(request)

    return authenticate


def _key_of(request: web.Request) -> str:
    """The key as OpenAI's libraries send it, else as Anthropic's do; "" where there is none."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return request.headers.get("x-api-key", "").strip()
