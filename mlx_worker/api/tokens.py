"""The bodies of `POST /tokenize` and `POST /detokenize`. [front]"""

from __future__ import annotations

from typing import Annotated

import msgspec

from mlx_worker.api.dialect import decode
from mlx_worker.api.fields import refuse_unsupported
from mlx_worker.sampler_types import TokenId
from mlx_worker.wire.messages import ChatRequest, Sampling


class TokenizeBody(msgspec.Struct, frozen=True):
    """A text, read as a completion's prompt is."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None


class DetokenizeBody(msgspec.Struct, frozen=True):
    """Token ids."""

    tokens: Annotated[list[TokenId], msgspec.Meta(max_length=10_000_000)]
    model: str | None = None


def parse_to_tokenize(body: bytes) -> tuple[str | None, ChatRequest]:
    """For which model, and what. Raises InvalidRequest, which names the field."""
    asked = decode(body, TokenizeBody)
    refuse_unsupported({"add_special_tokens": asked.add_special_tokens is False})
    return asked.model, ChatRequest([], Sampling(seed=0), prompt=asked.prompt)


def parse_to_detokenize(body: bytes) -> tuple[str | None, list[int]]:
    """For which model, and which tokens. Raises InvalidRequest, which names the field."""
    asked = decode(body, DetokenizeBody)
    return asked.model, asked.tokens
