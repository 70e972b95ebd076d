"""Check the API key or the address of a client before anything else of its request.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from mlx_worker.api.middleware.csrf import is_foreign
from mlx_worker.errors import Unauthorized
from mlx_worker.security.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiohttp.typedefs import Handler

CREDENTIALS: web.AppKey[Credentials] = web.AppKey("credentials", Credentials)

NO_KEY: Final = "-"
"""Name of the key of a request that needed none."""

_KEY_NAME: web.RequestKey[str] = web.RequestKey("key_name", str)


def key_name(request: web.Request) -> str:
    """Return the name of the request's API key; `NO_KEY` where no key was needed."""
    return request[_KEY_NAME]


class Authentication:
    """Decides which requests need a key, and finds the name of the key that a request shows.

    `public` handlers need no key, `open_to_trusted` handlers need none from a trusted address.
    Handlers are compared, because a path can be written in many ways. `origins` are those of the
    pages that the configuration names.
    """

    def __init__(
        self,
        credentials: Credentials,
        origins: tuple[str, ...],
        *,
        public: Collection[Handler],
        open_to_trusted: Collection[Handler],
    ) -> None:
        self._credentials = credentials
        self._origins = origins
        self._public = public
        self._open_to_trusted = open_to_trusted

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request that needs a key and shows none that this node knows."""
        request[_KEY_NAME] = NO_KEY
        if self._credentials.are_required and request.match_info.handler not in self._public:
            name = self._name_of_presented_key(request)
            if name is None and not self._is_trusted(request):
                raise self._unauthorized()
            request[_KEY_NAME] = name or NO_KEY
        return await handler(request)

    def excludes_foreign_pages(self, request: web.Request) -> bool:
        """Return True if a page of another site could not make this request succeed.

        A page can use its reader's address, but not a key that the page does not know.
        """
        if not self._credentials.are_required:
            return False
        return not self._is_trusted(request) or self._name_of_presented_key(request) is not None

    def _name_of_presented_key(self, request: web.Request) -> str | None:
        """Return the name of the key in one of the two headers; the other may hold a stale key."""
        names = [self._credentials.keys.name_of(key) for key in _presented_keys(request)]
        return next((name for name in names if name is not None), None)

    def _is_trusted(self, request: web.Request) -> bool:
        """Return True if the client's address is enough, whatever key the request shows.

        `remote` is the address of the TCP peer: no header is read. A page of another site has its
        reader's address, and only a page whose origin the configuration names may use that.
        """
        if request.match_info.handler not in self._open_to_trusted:
            return False
        if is_foreign(request) and request.headers.get("Origin") not in self._origins:
            return False
        return self._credentials.trusted.covers(request.remote)

    def _unauthorized(self) -> Unauthorized:
        if self._credentials.keys:
            return Unauthorized(
                "this node asks for an API key: Authorization: Bearer KEY, or x-api-key: KEY"
            )
        return Unauthorized(
            "this node has no API keys: only addresses in server.trusted may send requests, and"
            " only for models, health, cache, warming and generation"
        )


def _presented_keys(request: web.Request) -> tuple[str, str]:
    """Return the keys in OpenAI's header and in Anthropic's; "" for a header that is missing."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else ""
    return bearer, request.headers.get("x-api-key", "").strip()
