"""Serve generations: one endpoint for each dialect.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.dialects.base import GenerationRequest
from mlx_worker.api.dialects.registry import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from mlx_worker.api.generation.accounting import RequestAccounting
from mlx_worker.api.generation.relay import relay
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.parsing.body_kinds import generation_body
from mlx_worker.api.parsing.parser import parse_body

if TYPE_CHECKING:
    from aiohttp import web

    from mlx_worker.api.dialects.base import Dialect
    from mlx_worker.supervisor.model import ModelRuntime
    from mlx_worker.supervisor.node import Node

R = TypeVar("R", bound=GenerationRequest)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/chat/completions`."""
    return await generate(request, CHAT)


async def response(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/responses`."""
    return await generate(request, RESPONSES)


async def message(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/messages`."""
    return await generate(request, MESSAGES)


async def completion(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/completions`."""
    return await generate(request, COMPLETIONS)


async def generate(request: web.Request, dialect: Dialect[R]) -> web.StreamResponse:
    """Parse a request in a dialect, run it and respond to it."""
    context = request.app[CONTEXT]
    body = await read_body(request)
    with RequestAccounting(request, context, dialect.name) as accounting:
        generation_request = await parse_body(request, body, generation_body(dialect))
        model = context.node.find(generation_request.model)
        echoes = [
            prompt if isinstance(prompt, str) else await _text_of(context.node, model, prompt)
            for prompt in generation_request.echoed
        ]
        return await relay(request, model, dialect, generation_request, echoes, accounting)


async def _text_of(node: Node, model: ModelRuntime, tokens: list[int]) -> str:
    answer = await node.client.detokenize(model, tokens)
    return msgspec.json.decode(answer.text, type=str)
