"""Serve the files of the dashboard at `/`.

The files are read once. A browser only asks whether they have changed. The content security policy
forbids the page to load from, send to, or be framed by any other site.

[front]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from aiohttp import web

from mlx_worker.api.middleware.errors import NoSuchPath

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

INDEX: Final = "index.html"

CONTENT_TYPES: Final = {
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
    """One file, its content type, and a hash of its contents."""

    body: bytes
    content_type: str
    etag: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """Return all files of the dashboard by their paths in its folder."""
    return dict(_files_in(files("mlx_worker").joinpath("page"), ""))


def _files_in(folder: Traversable, prefix: str) -> Iterator[tuple[str, PageFile]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files_in(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, _page_file(entry.read_bytes(), entry.name.rpartition(".")[2])


def _page_file(body: bytes, extension: str) -> PageFile:
    return PageFile(body, CONTENT_TYPES[extension], hashlib.sha256(body).hexdigest()[:32])


PAGE: web.AppKey[Mapping[str, PageFile]] = web.AppKey("page")


async def page(request: web.Request) -> web.Response:
    """Serve `GET /` and `GET /page/{path}`; 304 to a browser that has the file already."""
    name = request.match_info.get("name", INDEX)
    file = request.app[PAGE].get(name)
    if file is None:
        raise NoSuchPath(f"there is nothing at {request.path}")
    known_tags = request.if_none_match or ()
    if any(tag.value in (file.etag, "*") for tag in known_tags):
        response = web.Response(status=304, headers=HEADERS)
    else:
        headers = HEADERS | {"Content-Type": file.content_type}
        response = web.Response(body=file.body, headers=headers)
    response.etag = file.etag
    return response
