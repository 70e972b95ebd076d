"""Paths as the router sees them, whatever run of /v1 is in front. [front]"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web


def plain(request: web.Request) -> str:
    """The path without that run."""
    path = request.path
    while path.startswith("/v1/"):
        path = path.removeprefix("/v1")
    return path
