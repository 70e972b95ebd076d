"""Which vendor's words a caller reads, where that is not said by a handler. [front]

Anthropic's paths have Anthropic's errors. The list of models has two shapes at one path: there,
and where nothing is served, the header `anthropic-version` marks a client of Anthropic's. Anthropic
requires that header of every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.api.middleware.paths import plain_path

if TYPE_CHECKING:
    from aiohttp import web

VERSION: Final = "anthropic-version"

ANTHROPIC_PATHS: Final = ("/messages", "/messages/count_tokens")
"""Requests to these paths get Anthropic's errors, also those that no handler has seen."""

_OPENAI_PATHS: Final = ("/chat/completions", "/completions", "/responses")
"""Answers there are in OpenAI's words, whatever header a client sends to all paths."""


def is_anthropic_path(path: str) -> bool:
    """Return True if the path is one of Anthropic's alone."""
    return plain_path(path).endswith(ANTHROPIC_PATHS)


def reads_anthropic(request: web.Request) -> bool:
    """Return True if answers to this request that two vendors word are to be in Anthropic's."""
    if is_anthropic_path(request.path):
        return True
    path = plain_path(request.path)
    if VERSION not in request.headers or path.endswith(_OPENAI_PATHS):
        return False
    is_list = path == "/models" or path.startswith("/models/")
    return is_list or request.match_info.http_exception is not None
