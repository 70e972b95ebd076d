"""Decide which vendor's shape of errors and model lists a client reads.

Anthropic's paths have Anthropic's errors. The list of models has two shapes at one path. There, and
at paths that do not exist, the header `anthropic-version` marks one of Anthropic's clients:
Anthropic requires that header of every request.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.api.middleware.paths import plain_path

if TYPE_CHECKING:
    from aiohttp import web

VERSION_HEADER: Final = "anthropic-version"

ANTHROPIC_PATHS: Final = ("/messages", "/messages/count_tokens")
"""Requests to these paths get Anthropic's errors, also those that no handler has seen."""

_OPENAI_PATHS: Final = ("/chat/completions", "/completions", "/responses")
"""Responses there have OpenAI's shape, also for a client that sends the header to all paths."""


def is_anthropic_path(path: str) -> bool:
    """Return True if the path is one of Anthropic's alone."""
    return plain_path(path).endswith(ANTHROPIC_PATHS)


def expects_anthropic(request: web.Request) -> bool:
    """Return True if errors and model lists for this request are to have Anthropic's shape."""
    if is_anthropic_path(request.path):
        return True
    path = plain_path(request.path)
    if VERSION_HEADER not in request.headers or path.endswith(_OPENAI_PATHS):
        return False
    is_list = path == "/models" or path.startswith("/models/")
    return is_list or request.match_info.http_exception is not None
