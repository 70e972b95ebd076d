"""Reduce paths to what the router compares: without leading runs of /v1 and repeated slashes.

[front]
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiohttp import web

_SLASHES: Final = re.compile("/+")
_LEADING_V1: Final = re.compile("(?:/v1)+(?=/)")


def plain(request: web.Request) -> str:
    """Return the request's path as `plain_path` does."""
    return plain_path(request.path)


def plain_path(path: str) -> str:
    """Return a path without any /v1 in front, with single slashes and none at its end."""
    path = _SLASHES.sub("/", path)
    if leading := _LEADING_V1.match(path):
        path = path[leading.end() :]
    return path.rstrip("/") or "/"
