"""One handler an endpoint: read the request, ask the room that knows, answer. [front]"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from aiohttp import web

from mlx_worker.api.admin import health_report, reports, schemas
from mlx_worker.api.context import FRONT
from mlx_worker.api.dialects.base import GenerationRequest, ResponseInfo
from mlx_worker.api.dialects.messages import models_list
from mlx_worker.api.dialects.registry import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from mlx_worker.api.dialects.vendor import expects_anthropic
from mlx_worker.api.generation.accounting import Books
from mlx_worker.api.generation.relay import relay
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.middleware.errors import answer
from mlx_worker.api.parsing.body_kinds import (
    CountBody,
    PromptToWarm,
    TextToTokenize,
    TokensToDetokenize,
    generation_body,
)
from mlx_worker.api.parsing.parser import parse_body
from mlx_worker.errors import InvalidRequest, Unavailable, UnknownModel, WorkerError

if TYPE_CHECKING:
    from mlx_worker.api.dialects.base import Dialect, ResponseWriter
    from mlx_worker.supervisor.node import Node, Served

R = TypeVar("R", bound=GenerationRequest)


def reply(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


# --- generation ---------------------------------------------------------------------------


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`."""
    return await generate(request, CHAT)


async def response(request: web.Request) -> web.StreamResponse:
    """`POST /v1/responses`."""
    return await generate(request, RESPONSES)


async def message(request: web.Request) -> web.StreamResponse:
    """`POST /v1/messages`."""
    return await generate(request, MESSAGES)


async def completion(request: web.Request) -> web.StreamResponse:
    """`POST /v1/completions`."""
    return await generate(request, COMPLETIONS)


async def generate(request: web.Request, dialect: Dialect[R]) -> web.StreamResponse:
    """Answer a generation request in a dialect."""
    front = request.app[FRONT]
    body = await read_body(request)
    with Books(request, front, dialect.name) as books:
        call = await parse_body(request, body, generation_body(dialect))
        served = front.node.find(call.model)
        echoes = [
            prompt if isinstance(prompt, str) else await _text_of(front.node, served, prompt)
            for prompt in call.echoed
        ]
        name, created = _name_of(served, call.model), front.now()

        def writer_for(fingerprint: str) -> ResponseWriter:
            info = ResponseInfo(name, created, fingerprint, echoes, front.reasoning_summaries)
            return dialect.writer(call, info)

        return await relay(request, front, served, call, writer_for, books)


def _name_of(served: Served, asked: str | None) -> str:
    """The model's name in answers: its own id where the request's name is no name of it."""
    config = served.config
    return asked if asked is not None and asked in config.aliases else config.id


# --- tokens -------------------------------------------------------------------------------


async def count_tokens(request: web.Request) -> web.Response:
    """`POST /v1/messages/count_tokens`: what the model would read, special tokens and all."""
    node = request.app[FRONT].node
    name, asked = await parse_body(request, await read_body(request), CountBody())
    said = await node.tokenize(node.find(name), asked)
    return reply(schemas.TokenCount(said.count))


async def tokenize(request: web.Request) -> web.Response:
    """`POST /tokenize`."""
    node = request.app[FRONT].node
    name, asked = await parse_body(request, await read_body(request), TextToTokenize())
    served = node.find(name)
    if asked is None:
        return reply(schemas.Tokenized([], 0))
    said = await node.tokenize(served, asked)
    tokens = cast("list[int]", msgspec.Raw(said.tokens))  # JSON, which is not looked into
    return reply(schemas.Tokenized(tokens, said.count))


async def detokenize(request: web.Request) -> web.Response:
    """`POST /detokenize`."""
    node = request.app[FRONT].node
    name, tokens = await parse_body(request, await read_body(request), TokensToDetokenize())
    said = await node.detokenize(node.find(name), tokens)
    return reply(schemas.Detokenized(cast("str", msgspec.Raw(said.text))))


async def _text_of(node: Node, served: Served, tokens: list[int]) -> str:
    said = await node.detokenize(served, tokens)
    return msgspec.json.decode(said.text, type=str)


# --- health -------------------------------------------------------------------------------


async def health(request: web.Request) -> web.Response:
    """`GET /health`: always 200, the word is in the body; `?brief` says little of each model."""
    body = reports.health(request.app[FRONT])
    return reply(health_report.brief(body) if _is_brief(request) else body)


async def cluster_health(request: web.Request) -> web.Response:
    """`GET /v1/cluster/health`: the same body; the status says whether the node can serve.

    With many models it is brief: a router polls it, and large bodies cost it a connection.
    """
    front = request.app[FRONT]
    status = HTTPStatus.OK if reports.can_serve(front) else HTTPStatus.SERVICE_UNAVAILABLE
    body = reports.health(front)
    if _is_brief(request):
        return reply(health_report.brief(body), status)
    text = health_report.encoded_within_limit(body)
    return web.Response(body=text, status=status, content_type="application/json")


def _is_brief(request: web.Request) -> bool:
    return request.query.get("brief", "false").lower() in ("", "1", "true")


async def live(_request: web.Request) -> web.Response:
    """`GET /health/live`: the process is up."""
    return reply(schemas.Readiness("live"))


async def ready(request: web.Request) -> web.Response:
    """`GET /health/ready`: a model can serve."""
    if reports.can_serve(request.app[FRONT]):
        return reply(schemas.Readiness("ready"))
    return reply(schemas.Readiness("not ready"), HTTPStatus.SERVICE_UNAVAILABLE)


# --- models -------------------------------------------------------------------------------


async def models(request: web.Request) -> web.Response:
    """`GET /v1/models`, in Anthropic's shape for Anthropic's clients."""
    front = request.app[FRONT]
    reports.refuse_if_gone(front)
    listed = reports.models(front)
    if expects_anthropic(request):
        return reply(models_list.format_page(request, listed))
    return reply(schemas.ModelList(listed))


async def model(request: web.Request) -> web.Response:
    """`GET /v1/models/{id}`, as `models`."""
    front = request.app[FRONT]
    reports.refuse_if_gone(front)
    name = request.match_info["id"]
    for listed in reports.models(front):
        if listed.id == name:
            return reply(models_list.format_model(listed) if expects_anthropic(request) else listed)
    raise UnknownModel(f"no model is named {name!r}", param="model")


# --- cache --------------------------------------------------------------------------------


async def cache_state(request: web.Request) -> web.Response:
    """`GET /cache`, `GET /v1/cluster/cache`; `?model=` narrows to one."""
    front = request.app[FRONT]
    return reply(reports.cache(front, _named(request)))


async def cache_warm(request: web.Request) -> web.Response:
    """`POST /cache/warm`, `POST /v1/cluster/cache/warm`."""
    front = request.app[FRONT]
    name, prompt = await parse_body(request, await read_body(request), PromptToWarm())
    served = front.node.find(name)
    try:
        warmed = await front.node.warm(served, prompt)
    except (InvalidRequest, Unavailable):
        raise
    except WorkerError as error:
        return answer(request, WorkerError(f"warming failed: {error}"))
    digest = warmed.digest
    return reply(schemas.Warmed(digest, digest, warmed.tokens, warmed.at, served.config.id))


async def cache_clear(request: web.Request) -> web.Response:
    """`DELETE /cache`; `?model=` clears one model's only."""
    front = request.app[FRONT]
    named = _named(request)
    cleared = [named] if named else list(front.node.models.values())
    for served in cleared:
        await front.node.clear(served)
    return reply(schemas.Cleared([served.config.id for served in cleared]))


# --- administration -----------------------------------------------------------------------


async def restart(request: web.Request) -> web.Response:
    """`POST /admin/models/{id}/restart`: 202 at once; `/health` tells how it goes."""
    node = request.app[FRONT].node
    served = node.named(request.match_info["id"])
    node.restart(served)
    return reply(schemas.Restarting(served.config.id), HTTPStatus.ACCEPTED)


async def load(request: web.Request) -> web.Response:
    """`POST /admin/models/{id}/load`: 202 at once; `/health` tells how it goes."""
    node = request.app[FRONT].node
    served = node.named(request.match_info["id"])
    node.load(served)
    return reply(schemas.Loading(served.config.id), HTTPStatus.ACCEPTED)


async def unload(request: web.Request) -> web.Response:
    """`POST /admin/models/{id}/unload`: 202 at once, 409 while the model is at work."""
    node = request.app[FRONT].node
    served = node.named(request.match_info["id"])
    node.unload(served)
    return reply(schemas.Unloading(served.config.id), HTTPStatus.ACCEPTED)


async def reload(request: web.Request) -> web.Response:
    """`POST /admin/reload`: 200 with what came of it; `/health` tells how it goes."""
    return reply(await request.app[FRONT].reload())


def _named(request: web.Request) -> Served | None:
    name = request.query.get("model")
    return None if name is None else request.app[FRONT].node.find(name)
