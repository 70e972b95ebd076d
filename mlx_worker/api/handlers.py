"""One handler an endpoint: read the request, ask the room that knows, answer. [front]"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from aiohttp import web

from mlx_worker.api.admin import health_report, reports, schemas
from mlx_worker.api.context import FRONT
from mlx_worker.api.dialects.base import Call
from mlx_worker.api.dialects.chat.response import ChatReply
from mlx_worker.api.dialects.completions.response import CompletionReply
from mlx_worker.api.dialects.messages import models_list
from mlx_worker.api.dialects.messages.response import MessagesReply
from mlx_worker.api.dialects.responses.response import ResponsesReply
from mlx_worker.api.dialects.vendor import reads_anthropic
from mlx_worker.api.generation.accounting import Books
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.api.dialects.base import Reply
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.node import Node

C = TypeVar("C", bound=Call)


def reply(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


# --- generation ---------------------------------------------------------------------------


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`."""
    return await _generated(request, "chat", AskChat(), ChatReply)


async def response(request: web.Request) -> web.StreamResponse:
    """`POST /v1/responses`."""
    summaries = request.app[FRONT].reasoning_summaries
    return await _generated(request, "responses", AskResponse(summaries), ResponsesReply)


async def message(request: web.Request) -> web.StreamResponse:
    """`POST /v1/messages`."""
    return await _generated(request, "messages", AskMessage(), MessagesReply)


async def completion(request: web.Request) -> web.StreamResponse:
    """`POST /v1/completions`."""
    node = request.app[FRONT].node
    body = await read_body(request)
    with Books(request, request.app[FRONT], "completions") as books:
        call = await parsed(request, body, AskCompletion())
        served = node.find(call.model)
        echoes = [
            it if isinstance(it, str) else await _text_of(node, served, it) for it in call.echoed
        ]
        return await _relayed(request, call, served, partial(CompletionReply, echoes), books)


async def _generated(
    request: web.Request,
    dialect: str,
    ask: Ask[C],
    writer: Callable[[C, str, int, str], Reply],
) -> web.StreamResponse:
    """The way of a generation: a body of the dialect in, its `writer` out."""
    body = await read_body(request)
    node = request.app[FRONT].node
    with Books(request, request.app[FRONT], dialect) as books:
        call = await parsed(request, body, ask)
        return await _relayed(request, call, node.find(call.model), writer, books)


async def _relayed(
    request: web.Request,
    call: C,
    served: ModelRuntime,
    writer: Callable[[C, str, int, str], Reply],
    books: Books,
) -> web.StreamResponse:
    front = request.app[FRONT]
    reply_by = partial(writer, call, _name_of(served, call.model), front.now())
    return await relay(request, front, served, call, reply_by, books)


def _name_of(served: ModelRuntime, asked: str | None) -> str:
    """The model's name in answers: its own id where the request's name is no name of it."""
    config = served.config
    return asked if asked is not None and asked in config.aliases else config.id


# --- tokens -------------------------------------------------------------------------------


async def count_tokens(request: web.Request) -> web.Response:
    """`POST /v1/messages/count_tokens`: what the model would read, special tokens and all."""
    node = request.app[FRONT].node
    name, asked = await parsed(request, await read_body(request), AskCount())
    said = await node.client.tokenize(node.find(name), asked)
    return reply(schemas.TokenCount(said.count))


async def tokenize(request: web.Request) -> web.Response:
    """`POST /tokenize`."""
    node = request.app[FRONT].node
    name, asked = await parsed(request, await read_body(request), AskTokenize())
    served = node.find(name)
    if asked is None:
        return reply(schemas.Tokenized([], 0))
    said = await node.client.tokenize(served, asked)
    tokens = cast("list[int]", msgspec.Raw(said.tokens))  # JSON, which is not looked into
    return reply(schemas.Tokenized(tokens, said.count))


async def detokenize(request: web.Request) -> web.Response:
    """`POST /detokenize`."""
    node = request.app[FRONT].node
    name, tokens = await parsed(request, await read_body(request), AskDetokenize())
    said = await node.client.detokenize(node.find(name), tokens)
    return reply(schemas.Detokenized(cast("str", msgspec.Raw(said.text))))


async def _text_of(node: Node, served: ModelRuntime, tokens: list[int]) -> str:
    said = await node.client.detokenize(served, tokens)
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
    if reads_anthropic(request):
        return reply(models_list.page(request, listed))
    return reply(schemas.ModelList(listed))


async def model(request: web.Request) -> web.Response:
    """`GET /v1/models/{id}`, as `models`."""
    front = request.app[FRONT]
    reports.refuse_if_gone(front)
    name = request.match_info["id"]
    for listed in reports.models(front):
        if listed.id == name:
            return reply(models_list.entry(listed) if reads_anthropic(request) else listed)
    raise UnknownModel(f"no model is named {name!r}", param="model")


# --- cache --------------------------------------------------------------------------------


async def cache_state(request: web.Request) -> web.Response:
    """`GET /cache`, `GET /v1/cluster/cache`; `?model=` narrows to one."""
    front = request.app[FRONT]
    return reply(reports.cache(front, _named(request)))


async def cache_warm(request: web.Request) -> web.Response:
    """`POST /cache/warm`, `POST /v1/cluster/cache/warm`."""
    front = request.app[FRONT]
    name, prompt = await parsed(request, await read_body(request), AskWarm())
    served = front.node.find(name)
    try:
        warmed = await front.node.client.warm(served, prompt)
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
        await front.node.client.clear(served)
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


def _named(request: web.Request) -> ModelRuntime | None:
    name = request.query.get("model")
    return None if name is None else request.app[FRONT].node.find(name)
