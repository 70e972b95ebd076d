"""Make `openapi.json` of the table of routes and the types of bodies, responses and errors.

The document is made at the first request, of the types that parse and refuse bodies, so it cannot
say anything else.

[front]
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
from mlx_worker.api.middleware.request_ids import (
    CACHE_HIT,
    IDEMPOTENCY_KEY,
    MODEL,
    REQUEST_ID,
    SESSION_ID,
)
from mlx_worker.api.middleware.vendor import VERSION_HEADER, is_anthropic_path
from mlx_worker.api.route import EVENTS, JsonKeys, Text
from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from mlx_worker.api.route import Route
    from mlx_worker.errors import WorkerError

DOCUMENTED_ROUTES: web.AppKey[tuple[Route, ...]] = web.AppKey("documented_routes", tuple)

_ABOUT = """\
`/v1` in front of a path is optional and may be repeated. Doubled slashes, and slashes at the end
of a path, are ignored. Every GET has a HEAD with the same headers and no body. Unknown fields of a
body are ignored; a known field that this node does not support is a 400 that names the field.
A path that does not exist is a 404 (`no_such_path`), a method that a path does not have is a
405 (`wrong_method`, with `Allow`), bytes that are not HTTP are a 400 (`not_http`), and a connection
over the limit is a 503 (`too_many_connections`, with `Retry-After`; not for health). Where the node
has API keys, all paths but `/health/live` and `/health/ready` need a key. From an address in
`server.trusted`, models, health, cache, warming and generation need none."""

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

_JSON = "application/json"
_TEXT = {"type": "string"}
_STATUSES_TO_RETRY = (
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


async def openapi_document(request: web.Request) -> web.Response:
    """Serve `GET /openapi.json`."""
    return web.Response(body=document(request.app[DOCUMENTED_ROUTES]), content_type=_JSON)


@cache
def document(routes: tuple[Route, ...]) -> bytes:
    """Return the routes as an OpenAPI 3.1 document in JSON."""
    return encode(_Document(routes).build())


class _Document:
    """Builds a document that defines each type once and refers to its definition."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._routes = routes
        answers = (route.answer for route in routes if isinstance(route.answer, type))
        anthropic = (route.anthropic for route in routes if route.anthropic)
        bodies = (route.body for route in routes if route.body)
        types = [*dict.fromkeys((*bodies, *answers, *anthropic, OpenAIError, AnthropicError))]
        schemas, self._components = msgspec.json.schema_components(
            types, ref_template="#/components/schemas/{name}"
        )
        self._schemas = dict(zip(types, schemas, strict=True))

    def build(self) -> dict[str, Any]:
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
        responses = self._responses(route) | self._error_responses(route)
        if method == "HEAD":
            for response in responses.values():
                del response["content"]
        operation = {
            "operationId": "_".join(re.findall(r"\w+", f"{method} {_path(route)}")).lower(),
            "summary": "The headers of GET" if method == "HEAD" else route.summary,
            "parameters": _parameters(route),
            "responses": responses,
        }
        if route.body:
            content = _content(self._schemas[route.body])
            operation["requestBody"] = {"required": True, "content": content}
        return operation

    # --- responses ---

    def _responses(self, route: Route) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "description": route.summary,
            "content": self._content_of(route.answer),
        }
        if route.anthropic:
            assert isinstance(route.answer, type), "each vendor has a type"
            answer["description"] += f"; in Anthropic's shape where `{VERSION_HEADER}` is sent"
            answer["content"] = self._any_of(route.answer, route.anthropic)
        if route.streams:
            answer["description"] += "; with `stream: true` the same response as events"
            answer["content"] |= self._content_of(EVENTS)
        if route.streams and route.body:
            # A response that begins before its model does knows no cache hit.
            answer["headers"] = _headers(REQUEST_ID, SESSION_ID, MODEL) | _headers(
                CACHE_HIT, required=False
            )
        return {str(status): dict(answer) for status in route.statuses}

    def _content_of(self, answer: type[msgspec.Struct] | JsonKeys | Text) -> dict[str, Any]:
        match answer:
            case Text(media):
                return {media_type: {} for media_type in media}
            case JsonKeys(names):
                return _content({"type": "object", "required": list(names)})
            case typed:
                return _content(self._schemas[typed])

    def _any_of(self, *types: type[msgspec.Struct]) -> dict[str, Any]:
        return _content({"anyOf": [self._schemas[type_] for type_ in types]})

    def _error_responses(self, route: Route) -> dict[str, Any]:
        anthropic = is_anthropic_path(_path(route))
        content = _content(self._schemas[AnthropicError if anthropic else OpenAIError])
        if route.anthropic:
            content = self._any_of(OpenAIError, AnthropicError)
        kinds: defaultdict[int, list[type[WorkerError]]] = defaultdict(list)
        for kind in route.all_errors:
            kinds[anthropic_status(kind) if anthropic else kind.status].append(kind)
        return {
            str(status): {
                "description": "\n".join(
                    f"- `{kind.code}`: {_first_line(kind)}" for kind in kinds[status]
                ),
                "content": content,
                "headers": _headers(REQUEST_ID) | _retry_headers(status, kinds[status]),
            }
            for status in sorted(kinds)
        }


def _path(route: Route) -> str:
    """Return the path as OpenAPI writes it: the router's `{id:.+}` is `{id}` there."""
    return "/" + re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT | {"minLength": 1}}
        for name in re.findall(r"{(\w+)}", _path(route))
    ]
    parameters += [{"name": name, "in": "query", "schema": _TEXT} for name in route.query]
    if route.anthropic:
        parameters.append({"name": VERSION_HEADER, "in": "header", "schema": _TEXT})
    if route.streams and route.body:
        headers = (REQUEST_ID, SESSION_ID, IDEMPOTENCY_KEY)
        parameters += [{"name": name, "in": "header", "schema": _TEXT} for name in headers]
    return parameters


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {_JSON: {"schema": schema}}


def _headers(*names: str, required: bool = True) -> dict[str, Any]:
    return {name: {"required": required, "schema": _TEXT} for name in names}


def _retry_headers(status: int, kinds: list[type[WorkerError]]) -> dict[str, Any]:
    """Return headers that tell clients when to retry, or never to retry."""
    retry_after = ("Retry-After",) if status in _STATUSES_TO_RETRY else ()
    no_retry = ("X-Should-Retry",) if not all(kind.resend for kind in kinds) else ()
    return _headers(*retry_after, *no_retry, required=False)


def _first_line(kind: type[WorkerError]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]
