"""`openapi.json`: the table of routes and the types of bodies, answers and errors, as a document.

Made when it is first asked for, of what parses and refuses, so it cannot say anything else. [front]
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from mlx_worker import __version__
from mlx_worker.api.dialects.errors import AnthropicError, OpenAIError, anthropic_status
from mlx_worker.api.dialects.vendor import VERSION_HEADER, is_anthropic_path
from mlx_worker.api.middleware.request_ids import CACHE_HIT, MODEL, REQUEST_ID, SESSION_ID
from mlx_worker.api.route import EVENTS, Keys, Text

if TYPE_CHECKING:
    from mlx_worker.api.route import Route
    from mlx_worker.errors import WorkerError

DOCUMENTED: web.AppKey[tuple[Route, ...]] = web.AppKey("documented", tuple)

_ABOUT = """\
Any run of `/v1` in front of a path is ignored, none included, and so are slashes doubled there or
put at the end. HEAD is answered wherever GET is, by the same headers without a body. Fields that
are not named here are tolerated; a known one that this node cannot honour is a 400 with its name.
What is at no path is a 404 (`no_such_path`), a method that is not at a path a 405 (`wrong_method`,
with `Allow`), what is no HTTP a 400 (`not_http`), one connection too many a
503 (`too_many_connections`, with `Retry-After`; not for health). Where the node has keys, all but
`/health/live` and `/health/ready` asks for one; not from an address in `server.trusted`, for
models, health, cache, warming and generation."""

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

_JSON = "application/json"
_TEXT = {"type": "string"}
_WAITING_HELPS = (
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


async def served(request: web.Request) -> web.Response:
    """`GET /openapi.json`."""
    return web.Response(body=document(request.app[DOCUMENTED]), content_type=_JSON)


@cache
def document(routes: tuple[Route, ...]) -> bytes:
    """OpenAPI 3.1, as JSON."""
    return msgspec.json.encode(_Document(routes).whole())


class _Document:
    """One in the making: types are named once, and referred to wherever they are used."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._routes = routes
        answers = (it.answer for it in routes if isinstance(it.answer, type))
        others = (it.anthropic for it in routes if it.anthropic)
        bodies = (it.body for it in routes if it.body)
        types = [*dict.fromkeys((*bodies, *answers, *others, OpenAIError, AnthropicError))]
        schemas, self._components = msgspec.json.schema_components(
            types, ref_template="#/components/schemas/{name}"
        )
        self._schemas = dict(zip(types, schemas, strict=True))

    def whole(self) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for route in self._routes:
            for method in route.methods:
                paths.setdefault(_path(route), {})[method.lower()] = self._operation(route, method)
        return {
            "openapi": "3.1.0",
            "info": {"title": "mlx-worker", "version": __version__, "description": _ABOUT},
            "servers": [{"url": "/"}, {"url": "/v1"}],
            "paths": paths,
            "components": {"schemas": self._components, "securitySchemes": _SECURITY},
            "security": [{}, *({name: list[str]()} for name in _SECURITY)],
        }

    def _operation(self, route: Route, method: str) -> dict[str, Any]:
        responses = self._answers(route) | self._refusals(route)
        if method == "HEAD":
            for response in responses.values():
                del response["content"]
        operation = {
            "operationId": "_".join(re.findall(r"\w+", f"{method} {_path(route)}")).lower(),
            "summary": "The headers of GET" if method == "HEAD" else route.does,
            "parameters": _parameters(route),
            "responses": responses,
        }
        if route.body:
            content = _content(self._schemas[route.body])
            operation["requestBody"] = {"required": True, "content": content}
        return operation

    # --- what comes back ---

    def _answers(self, route: Route) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "description": route.does,
            "content": self._answered(route.answer),
        }
        if route.anthropic:
            assert isinstance(route.answer, type), "two types for two vendors"
            answer["description"] += f"; in Anthropic's shape where `{VERSION_HEADER}` is sent"
            answer["content"] = self._either(route.answer, route.anthropic)
        if route.streams:
            answer["description"] += "; with `stream: true` the events that make the same answer"
            answer["content"] |= self._answered(EVENTS)
            answer["headers"] = _headers(REQUEST_ID, SESSION_ID, CACHE_HIT, MODEL)
        return {str(status): dict(answer) for status in route.statuses}

    def _answered(self, answer: type[msgspec.Struct] | Keys | Text) -> dict[str, Any]:
        match answer:
            case Text(media):
                return {it: {} for it in media}
            case Keys(names):
                return _content({"type": "object", "required": list(names)})
            case typed:
                return _content(self._schemas[typed])

    def _either(self, *types: type[msgspec.Struct]) -> dict[str, Any]:
        return _content({"anyOf": [self._schemas[kind] for kind in types]})

    def _refusals(self, route: Route) -> dict[str, Any]:
        anthropic = is_anthropic_path(_path(route))
        content = _content(self._schemas[AnthropicError if anthropic else OpenAIError])
        if route.anthropic:
            content = self._either(OpenAIError, AnthropicError)
        kinds: defaultdict[int, list[type[WorkerError]]] = defaultdict(list)
        for kind in route.all_errors:
            kinds[anthropic_status(kind) if anthropic else kind.status].append(kind)
        return {
            str(status): {
                "description": "\n".join(
                    f"- `{it.code}`: {_first_line(it)}" for it in kinds[status]
                ),
                "content": content,
                "headers": _headers(REQUEST_ID) | _when_to_retry(status, kinds[status]),
            }
            for status in sorted(kinds)
        }


def _path(route: Route) -> str:
    """As documents write it: the router's `{id:.+}` is `{id}` there."""
    return "/" + re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)


def _parameters(route: Route) -> list[dict[str, Any]]:
    told = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT | {"minLength": 1}}
        for name in re.findall(r"{(\w+)}", _path(route))
    ]
    told += [{"name": it, "in": "query", "schema": _TEXT} for it in route.query]
    if route.anthropic:
        told.append({"name": VERSION_HEADER, "in": "header", "schema": _TEXT})
    if route.streams:
        told += [{"name": it, "in": "header", "schema": _TEXT} for it in (REQUEST_ID, SESSION_ID)]
    return told


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {_JSON: {"schema": schema}}


def _headers(*names: str, required: bool = True) -> dict[str, Any]:
    return {name: {"required": required, "schema": _TEXT} for name in names}


def _when_to_retry(status: int, kinds: list[type[WorkerError]]) -> dict[str, Any]:
    """Seconds, where waiting helps; and whether client libraries may send the same again."""
    waiting = ("Retry-After",) if status in _WAITING_HELPS else ()
    never = ("X-Should-Retry",) if not all(it.resend for it in kinds) else ()
    return _headers(*waiting, *never, required=False)


def _first_line(kind: type[WorkerError]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]
