"""Serve the endpoints that count, encode and decode tokens.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import asdict

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.middleware.body import read_body
from mlx_worker.api.middleware.responses import json_response
from mlx_worker.api.parsing.body_kinds import CountBody, TextToTokenize, TokensToDetokenize
from mlx_worker.api.parsing.model_table import NodeModels
from mlx_worker.api.parsing.parser import parse_body
from mlx_worker.json_output import embedded

if TYPE_CHECKING:
    from aiohttp import web


class TokenCount(msgspec.Struct, frozen=True):
    """The tokens that the model would read, special tokens included."""

    input_tokens: int


class TokenizeResponse(msgspec.Struct, frozen=True):
    """Token ids and their number; `max_model_len` is the context length, by vLLM's name."""

    tokens: list[int]
    count: int
    max_model_len: int | None


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """The text of the tokens."""

    prompt: str


async def count_tokens(request: web.Request) -> web.Response:
    """Serve `POST /v1/messages/count_tokens`: tokens the model would read, with special tokens."""
    node = request.app[CONTEXT].node
    models = NodeModels(node)
    name, chat = await parse_body(request, await read_body(request), CountBody(), models)
    answer = await node.client.tokenize(models.find(name), chat)
    return json_response(TokenCount(answer.count))


async def tokenize(request: web.Request) -> web.Response:
    """Serve `POST /tokenize`."""
    node = request.app[CONTEXT].node
    models = NodeModels(node)
    name, chat = await parse_body(request, await read_body(request), TextToTokenize(), models)
    model = models.find(name)
    if chat is None:
        return json_response(TokenizeResponse([], 0, model.status().known_context_length))
    answer = await node.client.tokenize(model, chat)
    tokens: list[int] = embedded(answer.tokens)  # JSON that is sent on as it came
    known = model.status().known_context_length
    return json_response(asdict(TokenizeResponse(tokens, answer.count, known)))


async def detokenize(request: web.Request) -> web.Response:
    """Serve `POST /detokenize`."""
    node = request.app[CONTEXT].node
    models = NodeModels(node)
    name, tokens = await parse_body(request, await read_body(request), TokensToDetokenize(), models)
    answer = await node.client.detokenize(models.find(name), tokens)
    return json_response(asdict(DetokenizeResponse(embedded(answer.text))))
