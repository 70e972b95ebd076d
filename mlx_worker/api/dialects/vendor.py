"""Decide whether a response has OpenAI's or Anthropic's form, if its handler does not. [front]

Anthropic's paths have Anthropic's errors. The list of models has two forms at one path: there, and
at unknown paths, the header `anthropic-version` marks a client of Anthropic's. Anthropic requires
that header of every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.api.middleware.paths import plain_path

if TYPE_CHECKING:
    from aiohttp import web

VERSION_HEADER: Final = "anthropic-version"

ANTHROPIC_PATHS: Final = ("/messages", "/messages/count_tokens")
"""Requests to these paths get Anthropic's errors, also those that reach no handler."""

_OPENAI_PATHS: Final = ("/chat/completions", "/completions", "/responses")
"""Responses at these paths have OpenAI's form, even if a client sends the header everywhere."""


def is_anthropic_path(path: str) -> bool:
    """Return True if the path is only in Anthropic's API."""
    return plain_path(path).endswith(ANTHROPIC_PATHS)


def expects_anthropic(request: web.Request) -> bool:
    """Return True if a response with two forms is to have Anthropic's for this request."""
    if is_anthropic_path(request.path):
        return True
    path = plain_path(request.path)
    if VERSION_HEADER not in request.headers or path.endswith(_OPENAI_PATHS):
        return False
    is_list = path == "/models" or path.startswith("/models/")
    return is_list or request.match_info.http_exception is not None
