"""Browsers: what a page of another site may not do with this node through its reader's browser.

A browser sends requests to `http://127.0.0.1:8081` for any page that asks it to, and a name that a
stranger's DNS server points here makes that page one of this very origin. Two rules, for requests
that a browser has marked or that only operators make; programs that are no browser mark nothing
and notice nothing:

- What changes something must come from this node's own page, or from an origin in `cors_origins`.
- Where a request needs no key, a browser must have come by an address, by `localhost`, by the
  machine's own name or by one of `host_names`: on a node without keys, and from a trusted address.
  Where a key is needed a stranger's page has none, and any name will do.

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

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})

OWN: Final = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site of this node's page, and of what its reader typed or clicked outside of pages."""


def same_origin(
    host_names: tuple[str, ...], origins: tuple[str, ...], keyed: Callable[[web.Request], bool]
) -> Middleware:
    """The middleware that refuses the rest. `keyed`: does this request need a key, or show one?"""
    names = frozenset(map(_folded, (*_own_names(), *host_names)))

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_welcome(request, origins):
            if request.method not in READING and is_foreign(request):
                raise CrossOriginRequest(
                    "a page of another site may not do this; server.cors_origins names those that"
                    " may"
                )
            host = _host_of(request)
            if not keyed(request) and _needs_known_host(request) and not _is_known(host, names):
                raise UnknownHost(
                    f"without a key this node answers no browser that calls it {host!r}: ask it by"
                    " its address, or name it in server.host_names"
                )
        return await handler(request)

    return guard


# --- where it comes from ------------------------------------------------------------------


def _is_welcome(request: web.Request, origins: tuple[str, ...]) -> bool:
    """Is its origin one that the configuration names? Any (`*`) is none that may operate."""
    origin = request.headers.get("Origin")
    return origin is not None and (
        origin in origins or ("*" in origins and not _is_for_operators(request))
    )


def is_foreign(request: web.Request) -> bool:
    """Return True if the browser says that a page of another origin asks."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in OWN
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() != _authority(request)


def _needs_known_host(request: web.Request) -> bool:
    # A browser marks no reading of what it takes for the page's own origin, so what only operators
    # read is guarded by itself.
    return _is_for_operators(request) or not request.headers.keys().isdisjoint(
        ("Origin", "Sec-Fetch-Site")
    )


def _is_for_operators(request: web.Request) -> bool:
    path = plain(request)
    return path == "/" or path.startswith(("/admin/", "/page/"))


# --- by which name ------------------------------------------------------------------------


def _authority(request: web.Request) -> str:
    return request.headers.get("Host", "").lower()


def _host_of(request: web.Request) -> str:
    """The Host header without its port; "" where there is none, which no browser does."""
    authority = _authority(request)
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return _folded(authority.partition(":")[0])


def _is_known(host: str, names: frozenset[str]) -> bool:
    if not host or host in names or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True  # no name server has a say in an address


def _own_names() -> tuple[str, ...]:
    name = socket.gethostname()
    short = name.partition(".")[0]
    return ("localhost", name, short, f"{short}.local")


def _folded(name: str) -> str:
    return name.lower().rstrip(".")
