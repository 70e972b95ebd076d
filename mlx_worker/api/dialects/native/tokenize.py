"""The bodies of `POST /tokenize` and `POST /detokenize`.

[front]
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.api.dialects.fields import ModelName, refuse_unsupported
from mlx_worker.config.sampler_types import TokenId
from mlx_worker.wire.request import ChatRequest, Sampling

MAX_TEXT = 4_000_000
"""Characters of a text: the response lists its tokens one by one."""
MAX_TOKENS = 1_000_000
"""Token ids of a text."""


class TokenizeRequest(msgspec.Struct, frozen=True):
    """A text, tokenized as the prompt of a completion."""

    prompt: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
    model: ModelName | None = None
    add_special_tokens: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True):
    """Token ids."""

    tokens: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_TOKENS)]
    model: ModelName | None = None


def parse_tokenize_body(data: bytes) -> tuple[str | None, ChatRequest | None]:
    """Return the model's name and a request with the text; None if the text is empty.

    Raises InvalidRequest, which names the field.
    """
    body = decode_body(data, TokenizeRequest)
    refuse_unsupported({"add_special_tokens": body.add_special_tokens is False})
    if not body.prompt:
        return body.model, None
    return body.model, ChatRequest([], Sampling(seed=0), prompt=body.prompt)


def parse_detokenize_body(data: bytes) -> tuple[str | None, list[int]]:
    """Return the model's name and the tokens. Raises InvalidRequest, which names the field."""
    body = decode_body(data, DetokenizeRequest)
    return body.model, body.tokens
