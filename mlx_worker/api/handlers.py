"""One handler an endpoint: read the request, ask the room that knows, answer. [front]"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec.structs import asdict

from mlx_worker.api.admin import health_report, reports, schemas
from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dialects.base import Call
from mlx_worker.api.dialects.chat.response import ChatReply
from mlx_worker.api.dialects.completions.response import CompletionReply
from mlx_worker.api.dialects.messages import models_list
from mlx_worker.api.dialects.messages.response import MessagesReply
from mlx_worker.api.dialects.responses.response import ResponsesReply
from mlx_worker.api.dialects.vendor import reads_anthropic
from mlx_worker.api.generation.accounting import RequestAccounting
from mlx_worker.api.generation.relay import relay
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.middleware.errors import answer
from mlx_worker.api.parsing.body_kinds import (
    Ask,
    AskChat,
    AskCompletion,
    AskCount,
    AskDetokenize,
    AskMessage,
    AskResponse,
    AskTokenize,
    AskWarm,
)
from mlx_worker.api.parsing.parser import parsed
from mlx_worker.errors import InvalidRequest, Unavailable, UnknownModel, WorkerError
from mlx_worker.json_output import embedded, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.api.dialects.base import Reply
    from mlx_worker.supervisor.node import Node, Served

C = TypeVar("C", bound=Call)


def reply(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=encode(body), status=status, content_type="application/json")


# --- generation ---------------------------------------------------------------------------


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`."""
    return await _generated(request, "chat", AskChat(), ChatReply)


async def response(request: web.Request) -> web.StreamResponse:
    """`POST /v1/responses`."""
    summaries = request.app[CONTEXT].reasoning_summaries
    return await _generated(request, "responses", AskResponse(summaries), ResponsesReply)


async def message(request: web.Request) -> web.StreamResponse:
    """`POST /v1/messages`."""
    return await _generated(request, "messages", AskMessage(), MessagesReply)


async def completion(request: web.Request) -> web.StreamResponse:
    """`POST /v1/completions`."""
    node = request.app[CONTEXT].node
    body = await read_body(request)
    with RequestAccounting(request, request.app[CONTEXT], "completions") as accounting:
        call = await parsed(request, body, AskCompletion())
        served = node.find(call.model)
        echoes = [
            it if isinstance(it, str) else await _text_of(node, served, it) for it in call.echoed
        ]
        return await _relayed(request, call, served, partial(CompletionReply, echoes), accounting)


async def _generated(
    request: web.Request,
    dialect: str,
    ask: Ask[C],
    writer: Callable[[C, str, int, str], Reply],
) -> web.StreamResponse:
    """The way of a generation: a body of the dialect in, its `writer` out."""
    body = await read_body(request)
    node = request.app[CONTEXT].node
    with RequestAccounting(request, request.app[CONTEXT], dialect) as accounting:
        call = await parsed(request, body, ask)
        return await _relayed(request, call, node.find(call.model), writer, accounting)


async def _relayed(
    request: web.Request,
    call: C,
    served: Served,
    writer: Callable[[C, str, int, str], Reply],
    accounting: RequestAccounting,
) -> web.StreamResponse:
    context = request.app[CONTEXT]
    reply_by = partial(writer, call, _name_of(served, call.model), context.now())
    return await relay(request, context, served, call, reply_by, accounting)


def _name_of(served: Served, asked: str | None) -> str:
    """The model's name in answers: its own id where the request's name is no name of it."""
    config = served.config
    return asked if asked is not None and asked in config.aliases else config.id


# --- tokens -------------------------------------------------------------------------------


async def count_tokens(request: web.Request) -> web.Response:
    """`POST /v1/messages/count_tokens`: what the model would read, special tokens and all."""
    node = request.app[CONTEXT].node
    name, asked = await parsed(request, await read_body(request), AskCount())
    said = await node.tokenize(node.find(name), asked)
    return reply(schemas.TokenCount(said.count))


async def tokenize(request: web.Request) -> web.Response:
    """`POST /tokenize`."""
    node = request.app[CONTEXT].node
    name, asked = await parsed(request, await read_body(request), AskTokenize())
    served = node.find(name)
    if asked is None:
        return reply(schemas.TokenizeResponse([], 0))
    said = await node.tokenize(served, asked)
    tokens: list[int] = embedded(said.tokens)  # JSON, which is not looked into
    return reply(asdict(schemas.TokenizeResponse(tokens, said.count)))


async def detokenize(request: web.Request) -> web.Response:
    """`POST /detokenize`."""
    node = request.app[CONTEXT].node
    name, tokens = await parsed(request, await read_body(request), AskDetokenize())
    said = await node.detokenize(node.find(name), tokens)
    return reply(asdict(schemas.DetokenizeResponse(embedded(said.text))))


async def _text_of(node: Node, served: Served, tokens: list[int]) -> str:
    said = await node.detokenize(served, tokens)
    return msgspec.json.decode(said.text, type=str)


# --- health -------------------------------------------------------------------------------


async def health(request: web.Request) -> web.Response:
    """`GET /health`: always 200, the word is in the body; `?brief` says little of each model."""
    body = reports.health(request.app[CONTEXT])
    return reply(health_report.brief(body) if _is_brief(request) else body)


async def cluster_health(request: web.Request) -> web.Response:
    """`GET /v1/cluster/health`: the same body; the status says whether the node can serve.

    With many models it is brief: a router polls it, and large bodies cost it a connection.
    """
    context = request.app[CONTEXT]
    status = HTTPStatus.OK if reports.can_serve(context) else HTTPStatus.SERVICE_UNAVAILABLE
    body = reports.health(context)
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
    if reports.can_serve(request.app[CONTEXT]):
        return reply(schemas.Readiness("ready"))
    return reply(schemas.Readiness("not ready"), HTTPStatus.SERVICE_UNAVAILABLE)


# --- models -------------------------------------------------------------------------------


async def models(request: web.Request) -> web.Response:
    """`GET /v1/models`, in Anthropic's shape for Anthropic's clients."""
    context = request.app[CONTEXT]
    reports.refuse_if_gone(context)
    listed = reports.models(context)
    if reads_anthropic(request):
        return reply(models_list.page(request, listed))
    return reply(schemas.ModelList(listed))


async def model(request: web.Request) -> web.Response:
    """`GET /v1/models/{id}`, as `models`."""
    context = request.app[CONTEXT]
    reports.refuse_if_gone(context)
    name = request.match_info["id"]
    for listed in reports.models(context):
        if listed.id == name:
            return reply(models_list.entry(listed) if reads_anthropic(request) else listed)
    raise UnknownModel(f"no model is named {name!r}", param="model")


# --- cache --------------------------------------------------------------------------------


async def cache_state(request: web.Request) -> web.Response:
    """`GET /cache`, `GET /v1/cluster/cache`; `?model=` narrows to one."""
    context = request.app[CONTEXT]
    return reply(reports.cache(context, _named(request)))


async def cache_warm(request: web.Request) -> web.Response:
    """`POST /cache/warm`, `POST /v1/cluster/cache/warm`."""
    context = request.app[CONTEXT]
    name, prompt = await parsed(request, await read_body(request), AskWarm())
    served = context.node.find(name)
    try:
        warmed = await context.node.warm(served, prompt)
    except (InvalidRequest, Unavailable):
        raise
    except WorkerError as error:
        return answer(request, WorkerError(f"warming failed: {error}"))
    digest = warmed.digest
    return reply(schemas.WarmResponse(digest, digest, warmed.tokens, warmed.at, served.config.id))


async def cache_clear(request: web.Request) -> web.Response:
    """`DELETE /cache`; `?model=` clears one model's only."""
    context = request.app[CONTEXT]
    named = _named(request)
    cleared = [named] if named else list(context.node.models.values())
    for served in cleared:
        await context.node.clear(served)
    return reply(schemas.ClearResponse([served.config.id for served in cleared]))


# --- administration -----------------------------------------------------------------------


async def restart(request: web.Request) -> web.Response:
    """`POST /admin/models/{id}/restart`: 202 at once; `/health` tells how it goes."""
    node = request.app[CONTEXT].node
    served = node.named(request.match_info["id"])
    node.restart(served)
    return reply(schemas.Restarting(served.config.id), HTTPStatus.ACCEPTED)


async def load(request: web.Request) -> web.Response:
    """`POST /admin/models/{id}/load`: 202 at once; `/health` tells how it goes."""
    node = request.app[CONTEXT].node
    served = node.named(request.match_info["id"])
    node.load(served)
    return reply(schemas.Loading(served.config.id), HTTPStatus.ACCEPTED)


async def unload(request: web.Request) -> web.Response:
    """`POST /admin/models/{id}/unload`: 202 at once, 409 while the model is at work."""
    node = request.app[CONTEXT].node
    served = node.named(request.match_info["id"])
    node.unload(served)
    return reply(schemas.Unloading(served.config.id), HTTPStatus.ACCEPTED)


async def reload(request: web.Request) -> web.Response:
    """`POST /admin/reload`: 200 with what came of it; `/health` tells how it goes."""
    return reply(await request.app[CONTEXT].reload())


def _named(request: web.Request) -> Served | None:
    name = request.query.get("model")
    return None if name is None else request.app[CONTEXT].node.find(name)
