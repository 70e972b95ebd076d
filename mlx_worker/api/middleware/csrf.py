"""Refuse what a page of another site asks of this node through its reader's browser.

A browser sends requests to `http://127.0.0.1:8081` for any page. A host name that an attacker's DNS
server points here even makes the attacker's page part of this node's origin. Two rules hold for
requests that a browser has marked, and for paths of operators. Other programs mark nothing and
notice nothing:

- A request that changes something must come from this node's own page, or from an origin in
  `cors_origins`.
- A request without a key must have used an address, `localhost`, the machine's own name or one of
  `host_names`: on a node without keys, and from a trusted address. Where a key is needed, a foreign
  page does not have the key, and any host name is accepted.

[front]
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import web

from mlx_worker.api.middleware.paths import plain
from mlx_worker.errors import CrossOriginRequest, UnknownHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler, Middleware

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

OWN_SITE: Final = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for this node's page, and for what a user typed or clicked elsewhere."""


def same_origin_middleware(
    host_names: tuple[str, ...], origins: tuple[str, ...], keyed: Callable[[web.Request], bool]
) -> Middleware:
    """Return the middleware that refuses such requests.

    `keyed` returns True for a request that needs an API key, or shows one.
    """
    names = frozenset(map(_normalized, (*_own_names(), *host_names)))

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _has_allowed_origin(request, origins):
            if request.method not in SAFE_METHODS and is_foreign(request):
                raise CrossOriginRequest(
                    "a page of another site may not send this request; server.cors_origins names"
                    " the origins that may"
                )
            host = _host_of(request)
            if (
                not keyed(request)
                and _needs_known_host(request)
                and not _is_known_host(host, names)
            ):
                raise UnknownHost(
                    f"without a key this node does not answer a browser under the host name"
                    f" {host!r}: use the node's address, or add the name to server.host_names"
                )
        return await handler(request)

    return guard


# --- the origin of a request --------------------------------------------------------------


def _has_allowed_origin(request: web.Request, origins: tuple[str, ...]) -> bool:
    """Return True if the configuration names the origin; `*` allows no path of operators."""
    origin = request.headers.get("Origin")
    return origin is not None and (
        origin in origins or ("*" in origins and not _is_for_operators(request))
    )


def is_foreign(request: web.Request) -> bool:
    """Return True if the browser says that a page of another origin sent the request."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in OWN_SITE
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() != _authority(request)


def _needs_known_host(request: web.Request) -> bool:
    # A browser does not mark a GET within what it takes for one origin, so paths of operators are
    # always checked.
    return _is_for_operators(request) or not request.headers.keys().isdisjoint(
        ("Origin", "Sec-Fetch-Site")
    )


def _is_for_operators(request: web.Request) -> bool:
    path = plain(request)
    return path == "/" or path.startswith(("/admin/", "/page/"))


# --- the host name that was used ----------------------------------------------------------


def _authority(request: web.Request) -> str:
    return request.headers.get("Host", "").lower()


def _host_of(request: web.Request) -> str:
    """Return the Host header without its port; "" without one, which no browser sends."""
    authority = _authority(request)
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return _normalized(authority.partition(":")[0])


def _is_known_host(host: str, names: frozenset[str]) -> bool:
    if not host or host in names or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True  # no DNS server decides what an address means


def _own_names() -> tuple[str, ...]:
    name = socket.gethostname()
    short = name.partition(".")[0]
    return ("localhost", name, short, f"{short}.local")


def _normalized(name: str) -> str:
    return name.lower().rstrip(".")
