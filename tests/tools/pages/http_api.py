"""Write docs/reference/http-api.md: every endpoint, and every error, of the table of routes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mlx_worker.api.route import ANY_BODY, ANY_REQUEST, Text
from mlx_worker.api.routes import ROUTES
from mlx_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.api.route import Route

_BEGINNING: Final = """\
# HTTP API

Written by `python -m tests.tools.generated` from the table of routes. `GET /openapi.json` of a
running node has the same as OpenAPI 3.1, with the types of bodies and answers.

Any run of `/v1` in front of a path is ignored: `/chat/completions`, `/v1/chat/completions` and
`/v1/v1/chat/completions` are the same. Doubled slashes and slashes at the end of a path are ignored
too. HEAD is answered wherever GET is. The fields of a generation request are in
[Dialects](dialects.md), those of `/health` in [The health report](health.md).

## Endpoints

"Key" says which requests need an API key where the node has keys: **always**; **not if trusted**,
which is not from an address in `server.trusted`; or **never**.

"""

_ACCESS: Final = {"key": "always", "trusted": "not if trusted", "public": "never"}

_PAGE: Final = """\
The page itself is `GET /` and the files under `/page/`. They need no key and are in no API.

"""

_HEADERS: Final = """\
## Headers

| header | in | |
|---|---|---|
| `Authorization: Bearer KEY`, `x-api-key: KEY` | request | The API key. |
| `X-Request-Id` | both | Name of the request in log, events and traces; made if it is absent. |
| `X-Session-Id` | both | Name of the conversation; its cached prompts are kept longer. |
| `X-Model` | answer | The id of the model that answers, percent-encoded where it is not ASCII. |
| `X-Cache-Hit` | answer | `true` if the system prompt was in the prompt cache. |
| `X-Warnings` | answer | What of the request was left out; absent if nothing was. |
| `Retry-After` | answer | Seconds until another try may succeed. |
| `X-Should-Retry: false` | answer | Another try of the same request fails again. |
| `anthropic-version` | request | Chooses Anthropic's shape of the list of models and of errors. |

"""

_ERRORS: Final = """\
## Errors

An error body is `{"error": {"message", "type", "code", "param"}}`. In the Messages dialect it is
`{"type": "error", "error": {"type", "message"}}` ([statuses there](dialects.md#post-v1messages)).
Every endpoint may answer with the errors of any request; every endpoint with a body also with those
of any body. "Generation" is the four endpoints that generate; "tokens" is `/messages/count_tokens`,
`/tokenize` and `/detokenize`; "warming" is `/cache/warm` and `/cluster/cache/warm`.

These errors come before an endpoint is found: 404 `no_such_path`, which names the path that does
the same here where another server has it; 405 `wrong_method`, with `Allow`; 400 `not_http`; 503
`too_many_connections`, with `Retry-After`, which health never gets.

"""


def page() -> str:
    """Return the page."""
    return f"{_BEGINNING}{_endpoints()}{_PAGE}{_HEADERS}{_ERRORS}{_errors()}\n"


def _endpoints() -> str:
    lines = ["| endpoint | what it does | key | success |", "|---|---|---|---|"]
    lines += [
        f"| `{route.method} {_path(route)}` | {_what(route)} | {_ACCESS[route.access]} |"
        f" {_success(route)} |"
        for route in ROUTES
    ]
    return "\n".join(lines) + "\n\n"


def _path(route: Route) -> str:
    path = re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)
    query = "&".join(route.query)
    return f"/{path}?{query}" if query else f"/{path}"


def _what(route: Route) -> str:
    streamed = "; with `stream: true` as events" if route.streams else ""
    anthropic = "; Anthropic's shape if `anthropic-version` is sent" if route.anthropic else ""
    return f"{route.summary}{streamed}{anthropic}."


def _success(route: Route) -> str:
    statuses = ", ".join(map(str, route.statuses))
    if isinstance(route.answer, Text):
        return f"{statuses}: {', '.join(f'`{media_type}`' for media_type in route.answer.media)}"
    return f"{statuses}: JSON"


def _errors() -> str:
    lines = ["| status | code | type | when | where |", "|---|---|---|---|---|"]
    lines += [
        f"| {kind.status} | `{kind.code}` | `{kind.kind}` | {_first_line(kind)} | {_where(kind)} |"
        for kind in sorted(_all_errors(), key=lambda kind: (kind.status, kind.code))
    ]
    return "\n".join(lines)


def _all_errors() -> Iterable[type[WorkerError]]:
    return dict.fromkeys(error for route in ROUTES for error in route.all_errors)


_GROUPS: Final = {
    "generation": ("chat/completions", "completions", "responses", "messages"),
    "tokens": ("messages/count_tokens", "tokenize", "detokenize"),
    "warming": ("cache/warm", "cluster/cache/warm"),
    "the commands to a model": ("admin/models",),
}
"""Names of endpoints that are told together, with their paths."""


def _where(kind: type[WorkerError]) -> str:
    if kind in ANY_REQUEST:
        return "any request"
    if kind in ANY_BODY:
        return "any body"
    paths = dict.fromkeys(route.path.split("/{id")[0] for route in ROUTES if kind in route.errors)
    names: list[str] = []
    for name, members in _GROUPS.items():
        if all(path in paths for path in members):
            names.append(name)
            paths = {path: None for path in paths if path not in members}
    return ", ".join((*names, *(f"`/{path}`" for path in paths)))


def _first_line(kind: type[WorkerError]) -> str:
    return "An internal error." if kind is WorkerError else (kind.__doc__ or "").partition("\n")[0]
