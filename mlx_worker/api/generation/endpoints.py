"""Serve generations: one endpoint for each dialect.

[front]
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dialects.base import Call
from mlx_worker.api.dialects.chat.response import ChatReply
from mlx_worker.api.dialects.completions.response import CompletionReply
from mlx_worker.api.dialects.messages.response import MessagesReply
from mlx_worker.api.dialects.responses.response import ResponsesReply
from mlx_worker.api.generation.accounting import RequestAccounting
from mlx_worker.api.generation.relay import relay
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.parsing.body_kinds import (
    Ask,
    AskChat,
    AskCompletion,
    AskMessage,
    AskResponse,
)
from mlx_worker.api.parsing.parser import parsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from mlx_worker.api.dialects.base import Reply
    from mlx_worker.supervisor.node import Node, Served

C = TypeVar("C", bound=Call)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/chat/completions`."""
    return await _generated(request, "chat", AskChat(), ChatReply)


async def response(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/responses`."""
    summaries = request.app[CONTEXT].reasoning_summaries
    return await _generated(request, "responses", AskResponse(summaries), ResponsesReply)


async def message(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/messages`."""
    return await _generated(request, "messages", AskMessage(), MessagesReply)


async def completion(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/completions`."""
    node = request.app[CONTEXT].node
    body = await read_body(request)
    with RequestAccounting(request, request.app[CONTEXT], "completions") as accounting:
        call = await parsed(request, body, AskCompletion())
        served = node.find(call.model)
        echoes = [
            prompt if isinstance(prompt, str) else await _text_of(node, served, prompt)
            for prompt in call.echoed
        ]
        return await _relayed(request, call, served, partial(CompletionReply, echoes), accounting)


async def _generated(
    request: web.Request,
    dialect: str,
    ask: Ask[C],
    writer: Callable[[C, str, int, str], Reply],
) -> web.StreamResponse:
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
    """Return the model's name in responses: its id where the request has no name of the model."""
    config = served.config
    return asked if asked is not None and asked in config.aliases else config.id


async def _text_of(node: Node, served: Served, tokens: list[int]) -> str:
    answer = await node.detokenize(served, tokens)
    return msgspec.json.decode(answer.text, type=str)
