"""The page at `/`: files of this package, sent as they are. [front]

They are read once, and a browser asks again only whether they have changed. Nothing on the page is
loaded from, sent to or framed by any other place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from aiohttp import web

from mlx_worker.api.middleware.errors import NoSuchPath

INDEX: Final = "index.html"

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file, what it is, and a hash of it."""

    body: bytes
    content_type: str
    etag: str


def page_files() -> dict[str, PageFile]:
    """All of them by name."""
    return {
        it.name: _file(it.read_bytes(), it.name.rpartition(".")[2])
        for it in files("mlx_worker").joinpath("page").iterdir()
    }


def _file(body: bytes, kind: str) -> PageFile:
    return PageFile(body, TYPES[kind], hashlib.sha256(body).hexdigest()[:32])


PAGE: web.AppKey[dict[str, PageFile]] = web.AppKey("page", dict)


async def page(request: web.Request) -> web.Response:
    """`GET /`, and `GET /page/{name}` for what it is made of; 304 to whom has it already."""
    name = request.match_info.get("name", INDEX)
    file = request.app[PAGE].get(name)
    if file is None:
        raise NoSuchPath(f"there is nothing at {request.path}")
    known = request.if_none_match or ()
    if any(it.value in (file.etag, "*") for it in known):
        response = web.Response(status=304, headers=HEADERS)
    else:
        headers = HEADERS | {"Content-Type": file.content_type}
        response = web.Response(body=file.body, headers=headers)
    response.etag = file.etag
    return response
